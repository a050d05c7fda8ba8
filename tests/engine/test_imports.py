"""The engine is a wing of its own: it imports itself and the ground, and no file imports itself by a detour."""

import ast
from pathlib import Path

import snrmix

ROOT = Path(snrmix.__file__).parent
GROUND = {"snrmix._checks", "snrmix._log", "snrmix._names", "snrmix._torchvision"}


def imports_of(path):
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith("snrmix.")}


def engine():
    """What every file of the engine imports, by the name of its module."""
    files = {path: path.relative_to(ROOT.parent).with_suffix("") for path in (ROOT / "engine").rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): imports_of(path) for path, name in files.items()}


def test_engine_imports_itself_and_the_ground_alone():
    graph = engine()
    assert len(graph) > 30
    for module, imported in graph.items():
        others = {name for name in imported if not name.startswith("snrmix.engine")}
        assert all(any(name == g or name.startswith(f"{g}.") for g in GROUND) for name in others), (module, others)


def test_no_file_of_the_engine_imports_itself_by_a_detour():
    graph = engine()
    left = {module: {name for name in imported if name in graph} - {module} for module, imported in graph.items()}
    while free := {module for module, imported in left.items() if not imported & set(left)}:
        left = {module: imported for module, imported in left.items() if module not in free}
    assert not left, f"a circle among {sorted(left)}"
