"""What all figures of a result share."""

import inspect
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import snrmix

VERBS = {"compare": ["GLAND_01"], "gene_scores": [], "training": [], "weights": []}
PANELS = {"compare": 4, "gene_scores": 3, "training": 2, "weights": 1}


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
    axes = getattr(snrmix.pl, verb)(renamed, *VERBS[verb], key="other", save=tmp_path / "figure.png", dpi=50)
    assert np.size(axes) == PANELS[verb] and not shown
    assert all(isinstance(ax, matplotlib.axes.Axes) for ax in np.ravel(axes))
    size = Image.open(tmp_path / "figure.png").size
    assert 0.8 < size[0] / (50 * np.ravel(axes)[0].figure.get_figwidth()) < 1.2
    assert getattr(snrmix.pl, verb)(renamed, *VERBS[verb], show=True) is None and shown == [True]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("verb", VERBS)
def test_axes_of_the_user(adata, verb, monkeypatch):
    figure, given = plt.subplots(1, PANELS[verb], squeeze=False)
    axes = getattr(snrmix.pl, verb)(adata, *VERBS[verb], ax=given if PANELS[verb] > 1 else given[0, 0])
    assert set(np.ravel(axes)) == set(given.ravel()) and plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match=f"ax= holds 5 axes, and this takes {PANELS[verb]}"):
        getattr(snrmix.pl, verb)(adata, *VERBS[verb], ax=plt.subplots(1, 5)[1])


def test_importing_the_module_does_not_load_pyplot():
    code = "import sys, snrmix.pl; snrmix.pl.compare; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("verb", [name for name in snrmix.pl.__all__ if name != "report"])  # which is no figure
def test_docstrings_name_every_argument(verb):
    function = getattr(snrmix.pl, verb)
    names = [name for line in function.__doc__.splitlines() if line[:1] not in ("", " ") for name in line.split(", ")]
    assert set(inspect.signature(function).parameters) <= set(names)
    assert function.__doc__.count("unless the figure was shown.") == 1 and "{" not in function.__doc__.replace('{"', "")
    assert {"ax", "figsize", "show", "save", "dpi"} <= set(inspect.signature(function).parameters)
    assert function.__doc__.count("Examples\n--------\n>>> ") == 1
