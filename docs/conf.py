"""Sphinx configuration. The build needs no network: `make docs` treats every warning as an error."""

import os
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent

project = "snrmix"
author = "the snrmix developers"
project_copyright = f"2026, {author}"
release = version = installed_version("snrmix")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # after napoleon: it adds the types of the signatures to the docstrings
    "sphinx_copybutton",
]
html_static_path = ["_static"]
html_css_files = ["snrmix.css"]
exclude_patterns = ["_build", "_tables", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = True
typehints_defaults = "comma"
default_role = "py:obj"

# Links to other packages' pages need the network, so they are made only where the pages are published.
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
        "squidpy": ("https://squidpy.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tutorials are executed by the tests and shown with their stored output

html_theme = "sphinx_book_theme"
html_title = "snrmix"
html_theme_options = {
    "repository_url": "https://github.com/snrmix/snrmix",
    "use_repository_button": True,
    "path_to_docs": "docs",
}

# Sphinx reads only what lies below docs/, so the tutorials are copied there, each with its first picture beside it.
sys.path.insert(0, str(HERE))
from _tutorials import cards, copy_tutorials  # noqa: E402

TUTORIALS = copy_tutorials(HERE.parent / "tutorials", HERE / "tutorials")

# Programs in benchmarks/ write tables with --out docs/_tables; those that are there are shown.
TABLES_HERE = "% tables of docs/_tables"
NO_TABLES = "No results are stored in this copy of the documentation; run the programs above."


def table_text(path: Path) -> str:
    """A stored table, and the day on which it was stored; its last line names the machine."""
    command = ["git", "log", "-1", "--format=%cs", "--", str(path)]
    found = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()
    return f"{path.read_text().rstrip()}{f' Stored on {found}.' if found else ''}\n"


def insert(app, docname, source):
    """Put the stored tables, and the cards of the tutorials, where pages ask for them."""
    if docname == "benchmarks":
        tables = [table_text(path) for path in sorted((HERE / "_tables").glob("*.md"))]
        source[0] = source[0].replace(TABLES_HERE, "\n\n".join(tables) or NO_TABLES)
    if docname == "tutorials":
        source[0] = source[0].replace("% tutorials\n", cards(TUTORIALS))
    for path in (HERE / "_tables").glob("*.md"):
        source[0] = source[0].replace(f"% table {path.stem}", table_text(path))


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", insert)
