"""The rules of the house: imports go down only, never in a circle, and the wings know nothing but themselves."""

import ast
import types
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

import snrmix

ROOT = Path(snrmix.__file__).parent
GROUND = ("_names", "_log", "_globals", "_memory", "_torchvision", "_version")
FLOORS = (  # from the roof down; what stands on one floor may not know what else is on it, unless it is said below
    ("cli",),
    ("demo",),
    ("pl", "model"),
    ("tl", "pp"),
    ("io",),
    ("plan",),
    ("data", "engine"),
    ("images", "_checks", "_progress"),
    ("datasets", *GROUND),
)
WINGS = {"engine": ("engine", "_checks", "_progress", *GROUND), "images": ("images", *GROUND)}
LONGEST = 350


def room(module: str) -> str:
    """The folder or module at the top level that a module belongs to: ``"tl"`` for ``"snrmix.tl.impute"``."""
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if room(module) in rooms]
    assert found, f"{module} is in no room of the house; add it to FLOORS, or move it"
    return found[0]


def imports_of(path: Path, text: str):
    """Modules of the package that a file imports, inside functions too: the module that imports, the other, the line."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = ".".join(("snrmix", *parts)).removesuffix(".__init__")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name of the module"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        for name in names:
            target = module_of(name)
            if target and target != own:
                yield own, target, f"{path}:{node.lineno}: {ast.unparse(node)}"


@cache
def module_of(name: str) -> str | None:
    """The module of the package that a name is, or is in; ``None`` for others and for the package itself."""
    if not name.startswith("snrmix."):
        return None
    path = ROOT.joinpath(*name.split(".")[1:])
    return name if path.with_suffix(".py").exists() or (path / "__init__.py").exists() else None


@cache
def imports_by_file() -> dict[Path, list[tuple[str, str, str]]]:
    files = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]
    return {path: list(imports_of(path, path.read_text())) for path in files}


def all_imports(changed=types.MappingProxyType({})) -> list[tuple[str, str, str]]:
    return list(chain.from_iterable({**imports_by_file(), **changed}.values()))


def upward(imports) -> list[str]:
    """Imports of what stands higher, or beside; the ground carries everything but itself."""
    return [
        line
        for own, other, line in imports
        if room(own) != room(other)
        and (room(own) in GROUND or (room(other) not in GROUND and floor(other) <= floor(own)))
    ]


def out_of_wing(imports) -> list[str]:
    return [line for own, other, line in imports if room(own) in WINGS and room(other) not in WINGS[room(own)]]


def circles(imports) -> list[str]:
    """Imports from one module to another that leads back; an ``__init__`` that gathers the names of its folder is none."""
    graph = {}
    for own, other, _ in imports:
        if not own.startswith(f"{other}."):
            graph.setdefault(own, set()).add(other)

    def reached(module: str) -> set[str]:
        found, waiting = set(), [module]
        while waiting:
            new = graph.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found

    leads_to = {module: reached(module) for module in graph}
    return [line for own, other, line in imports if other in graph.get(own, ()) and own in leads_to.get(other, ())]


RULES = {"upward": upward, "out of its wing": out_of_wing, "in a circle": circles}


@pytest.mark.parametrize("rule", RULES)
def test_imports_go_down(rule):
    broken = RULES[rule](all_imports())
    assert not broken, f"imports that go {rule}:\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "file", "line"),
    [
        ("upward", "data/sites.py", "from snrmix.plan.source import read_source"),
        ("upward", "data/sites.py", "def f():\n    import snrmix.tl.impute"),
        ("upward", "plan/source.py", "from snrmix import tl"),
        ("upward", "tl/write.py", "from snrmix.pp import hold_out"),
        ("upward", "_names.py", "from snrmix._log import logger"),
        ("out of its wing", "engine/fit.py", "from snrmix.images import source"),
        ("out of its wing", "images/source.py", "def f():\n    from snrmix.datasets import tissue"),
        ("in a circle", "data/lattice.py", "from snrmix.data.sites import Sites"),
    ],
)
def test_a_bad_import_is_found(rule, file, line):
    path = ROOT / file
    changed = imports_of(path, f"{path.read_text()}\n\n{line}\n")
    before, after = RULES[rule](all_imports()), RULES[rule](all_imports({path: list(changed)}))
    assert len(after) > len(before)
    assert any(line.splitlines()[-1].strip() in said for said in after if said not in before)


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LONGEST}
