"""What is handed out: sdist and wheel, what they say of themselves, and that the installed copy works."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import snrmix

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HANDED_OUT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"][
    "include"
]
STRAY = ("notes.txt", ".secret", "demo/snrmix_demo.h5ad", "src/snrmix/__pycache__/x.pyc", "docs/_build/index.html")
needs_repository = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="an unpacked sdist")
MOST = 1_000_000  # bytes of the wheel


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Folder with sdist and wheel, built from a copy of the files that has stray ones among them."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ["pyproject.toml", "README.md", "LICENSE", ".gitignore", *(entry.lstrip("/") for entry in HANDED_OUT)]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("_build", "generated", "tutorials"))
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, copy / name)
    for name in STRAY:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("stray")
    run = [sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", copy]
    done = subprocess.run(run, capture_output=True, text=True, env=_alone(), check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return copy / "dist"


def _alone() -> dict[str, str]:
    """An environment in which nothing but what is installed is found."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_the_wheel_is_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < MOST
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        metadata = Parser().parsestr(file.read(f"snrmix-{snrmix.__version__}.dist-info/METADATA").decode())
    code = {name for name in names if not name.startswith(f"snrmix-{snrmix.__version__}.dist-info/")}
    source = {path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert code == {path.relative_to(ROOT / "src").as_posix() for path in source if "egg-info" not in str(path)}
    assert "snrmix/py.typed" in names
    assert f"snrmix-{snrmix.__version__}.dist-info/licenses/LICENSE" in names
    assert metadata["Version"] == snrmix.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_sdist_has_no_stray_files(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = [name.partition("/")[2] for name in file.getnames()]
    tops = {name.partition("/")[0] for name in names}
    allowed = {entry.lstrip("/") for entry in HANDED_OUT} | {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "PKG-INFO",
        ".gitignore",
    }
    assert tops <= allowed
    assert {"src", "tests", "CHANGELOG.md", "CITATION.cff"} <= tops
    assert not [name for name in names if name.endswith((".pyc", ".h5ad")) or "_build" in name]


def test_the_registry_would_take_them(built):
    files = sorted(map(str, built.iterdir()))
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


USE = """
import snrmix
adata = snrmix.datasets.synthetic_tissue(9, 12, image_px_per_pitch=12)
snrmix.pp.hold_out(adata)
snrmix.tl.impute(adata, measured="measured", encoder="colour", n_folds=2, max_epochs=1)
adata.write_h5ad("imputed.h5ad")
print(snrmix.__file__)
"""


def test_the_installed_copy_works(built, tmp_path):
    """In an environment of its own, where only the dependencies are borrowed from this one."""
    venv.create(tmp_path / "clean", with_pip=False)
    binaries = tmp_path / "clean" / "bin"
    base = {"base": str(tmp_path / "clean"), "platbase": str(tmp_path / "clean")}
    own = Path(sysconfig.get_path("purelib", "venv", vars=base))
    (own / "borrowed.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # its .pth files, such as ours, are not read
    (wheel,) = built.glob("*.whl")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        binaries / "python",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
    ]
    subprocess.run([*pip, "--ignore-installed", wheel], check=True, env=_alone())
    used = subprocess.run(
        [binaries / "python", "-c", USE], cwd=tmp_path, env=_alone(), capture_output=True, text=True, check=True
    )
    assert Path(used.stdout.strip()).is_relative_to(own)
    said = subprocess.run(
        [binaries / "snrmix", "info", "imputed.h5ad"],
        cwd=tmp_path,
        env=_alone(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith("AnnData: 51 observations x 12 variables"), said
    version = subprocess.run(
        [binaries / "snrmix", "--version"], env=_alone(), capture_output=True, text=True, check=True
    )
    assert version.stdout.strip() == f"snrmix {snrmix.__version__}"


@needs_repository
def test_the_version_stands_in_one_place():
    """In the package; where it is repeated for those who read files, it is the same."""
    assert PROJECT["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == snrmix.__version__
    assert registry_entry()["version"] == snrmix.__version__
    module = ROOT / "workflows" / "nextflow" / "modules" / "snrmix" / "impute" / "environment.yml"
    assert f"snrmix=={snrmix.__version__}" in module.read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{snrmix.__version__}]" in changelog or f"become {snrmix.__version__}" in changelog


def registry_entry() -> dict:
    return yaml.safe_load((ROOT / ".github" / "scverse" / "meta.yaml").read_text())


@needs_repository
def test_the_entry_has_what_the_schema_of_the_registry_asks_for():
    entry = registry_entry()
    texts = (
        "name",
        "description",
        "project_home",
        "documentation_home",
        "license",
        "version",
        "test_command",
        "category",
    )
    lists = ("tags", "contact")
    assert set(entry) <= {*texts, *lists, "tutorials_home", "install", "publications", "logo"}, "unknown keys"
    assert all(isinstance(entry[name], str) and entry[name] for name in texts)
    for name in lists:
        assert entry[name] and len(set(entry[name])) == len(entry[name])
        assert all(isinstance(word, str) for word in entry[name])
    assert entry["install"] == {"pypi": PROJECT["name"]}
    assert entry["license"] == PROJECT["license"], "an identifier of SPDX"
    assert entry["category"] == "ecosystem"
    assert entry["project_home"] == PROJECT["urls"]["Source"]
    assert entry["documentation_home"] == PROJECT["urls"]["Documentation"]
    assert all(entry[name].startswith("https://") for name in entry if name.endswith("_home"))
    assert len(re.findall(r"[.!?](?:\s|$)", entry["description"])) <= 2, "one or two sentences"


# What the registry demands of a package, point by point.


def public() -> dict[str, list[str]]:
    """Public names by module, ``""`` for the package itself."""
    rooms = {room: getattr(snrmix, room).__all__ for room in snrmix._MODULES}
    return {"": list(snrmix._LAZY), **rooms}


def test_mandatory_licence_that_the_osi_approves():
    assert PROJECT["license"] == "BSD-3-Clause"
    text = (ROOT / "LICENSE").read_text()
    assert "Redistribution and use in source and binary forms" in text
    assert "Neither the name of the copyright holder nor the names of its" in " ".join(text.split())


@needs_repository
def test_mandatory_versioned_releases_on_a_registry():
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert release[True] == {"release": {"types": ["published"]}}  # YAML reads "on" as true
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"contents": "read", "id-token": "write"}, "trusted publishing, without a password"
    assert any("gh-action-pypi-publish" in step.get("uses", "") for step in publish["steps"])
    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", snrmix.__version__)
    assert "Semantic Versioning" in (ROOT / "CHANGELOG.md").read_text()


@needs_repository
def test_mandatory_tests_run_on_every_push():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert set(workflow[True]) == {"push", "pull_request"}
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "./.ci/run" in commands and "make docs" in commands
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@needs_repository
def test_programs_inside_the_workflows_name_what_exists():
    """They would be noticed only at the next push."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for program in re.findall(r"python - <<'END'[^\n]*\n(.*?)\n\s*END\n", path.read_text(), re.DOTALL):
            lines = program.splitlines()
            indent = len(lines[0]) - len(lines[0].lstrip())
            for node in ast.walk(ast.parse("\n".join(line[indent:] for line in lines))):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("snrmix"):
                    module = __import__(node.module, fromlist=["_"])
                    assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_mandatory_tests_cover_all_public_functions():
    paths = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    words = {word for path in paths for word in re.findall(r"[\w.]+", path.read_text())}
    called = {".".join(word.split(".")[-2:]) for word in words} | words
    for room, names in public().items():
        for name in names:
            assert called & {
                f"{room}.{name}",
                f"snrmix.{name}" if not room else "",
                name if name[0].isupper() else "",
            }, f"no test speaks of {name} of snrmix.{room}"


def test_public_names_are_those_that_type_checkers_see():
    assert snrmix.__all__ == sorted([*snrmix._MODULES, *snrmix._LAZY])
    tree = ast.parse(Path(snrmix.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert sorted(alias.name for line in block.body for alias in line.names) == snrmix.__all__
    for line in block.body:
        for alias in line.names:
            assert snrmix._LAZY.get(alias.name, "snrmix") == line.module


def test_mandatory_api_documentation_of_all_public_functions():
    page = (ROOT / "docs" / "api.md").read_text()
    for room, names in public().items():
        for name in names:
            full = f"{room}.{name}" if room else name
            assert re.search(rf"^\s+(snrmix\.)?{re.escape(full)}$", page, re.MULTILINE), f"docs/api.md lacks {full}"
            thing = getattr(getattr(snrmix, room) if room else snrmix, name)
            assert (thing.__doc__ or "").strip(), f"snrmix.{full} has no docstring"


@needs_repository
def test_mandatory_api_documentation_is_published():
    published = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert (ROOT / published["sphinx"]["configuration"]).is_file()
    commands = " ".join(published["build"]["jobs"]["install"])
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert set(re.findall(r"--group (\w+)", commands)) == {"doc"} <= set(groups)
    assert "readthedocs.io" in PROJECT["urls"]["Documentation"]


def test_mandatory_data_structures_of_scverse():
    needed = {re.split(r"[\[>=<]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert {"anndata", "spatialdata", "squidpy"} <= needed


def test_mandatory_support_and_conduct():
    assert "What you can expect" in (ROOT / "SUPPORT.md").read_text()
    assert "SUPPORT.md" in (ROOT / "docs" / "install.md").read_text()
    conduct = (ROOT / "CODE_OF_CONDUCT.md").read_text()
    assert "Contributor Covenant" in conduct and "## Reporting" in conduct


@needs_repository
def test_templates_ask_for_info():
    template = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    fields = {part["id"]: part for part in template["body"] if "id" in part}
    assert "snrmix info" in fields["info"]["attributes"]["label"]
    assert fields["info"]["validations"]["required"]
    assert set(yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text())) == {
        "blank_issues_enabled",
        "contact_links",
    }
    assert "security/advisories/new" in (ROOT / "SECURITY.md").read_text()


def test_the_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "what the format demands"
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    method = citation["preferred-citation"]
    assert method["type"] == "article" and method["year"] == 2026
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert method["title"].split(":")[1].strip() in readme
    assert [author["family-names"] for author in method["authors"]][0] in readme
