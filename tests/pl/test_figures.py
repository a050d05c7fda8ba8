"""What all figures of a result share."""

import inspect
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest

import snrmix

VERBS = {"compare": ["GLAND_01"], "gene_scores": [], "training": [], "weights": []}


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_result_is_named(adata, verb):
    with pytest.raises(KeyError, match="no result 'snrmx' in uns; run snrmix.tl.impute first.*Did you mean 'snrmix'"):
        getattr(snrmix.pl, verb)(adata, *VERBS[verb], key="snrmx")
    with pytest.raises(TypeError, match="AnnData or a SpatialData, not list"):
        getattr(snrmix.pl, verb)([], *VERBS[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_key_save_and_show(adata, verb, tmp_path, monkeypatch, pretend_imputed):
    renamed = pretend_imputed(adata, key="other")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    before = dict(matplotlib.rcParams)
    figure = getattr(snrmix.pl, verb)(renamed, *VERBS[verb], key="other", save=tmp_path / "figure.png")
    assert isinstance(figure, matplotlib.figure.Figure) and not shown
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert getattr(snrmix.pl, verb)(renamed, *VERBS[verb], show=True) is None and shown == [True]
    assert dict(matplotlib.rcParams) == before


def test_importing_the_module_does_not_load_pyplot():
    code = "import sys, snrmix.pl; snrmix.pl.compare; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("verb", snrmix.pl.__all__)
def test_docstrings_name_every_argument(verb):
    function = getattr(snrmix.pl, verb)
    names = [name for line in function.__doc__.splitlines() if line[:1] not in ("", " ") for name in line.split(", ")]
    assert set(inspect.signature(function).parameters) <= set(names)
    assert function.__doc__.count("Unless it was shown.") == 1 and "{figure}" not in function.__doc__
