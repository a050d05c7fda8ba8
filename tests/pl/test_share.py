import numpy as np
import pandas as pd
import pytest

import snrmix


def record(kind, **errors):
    return {"kind": kind, "scores": pd.DataFrame({"mse_ratio": errors})}


@pytest.fixture
def slides(adata):
    """A shared model of two slides, with another result beside it."""
    errors = {"mean": 1.0, "spatial kNN": 0.9, "ridge": 0.8}
    adata.uns["snrmix"]["libraries"] = {
        "A": record("shared", snrmix=0.7, **errors),
        "B|1": record("shared", snrmix=0.6, **errors),
    }
    adata.uns["own"] = {
        "libraries": {"B|1": record("own", snrmix=0.65, **errors), "A": record("own", snrmix=0.66, **errors)}
    }
    return adata


def drawn(ax, label):
    handles, labels = ax.get_legend_handles_labels()
    return np.asarray(handles[labels.index(label)].get_offsets())[:, 0]


def test_share_draws_both_models_of_every_library(slides, texts, caplog):
    ax = snrmix.pl.share(slides, own="own")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B/1"]
    np.testing.assert_allclose(drawn(ax, "snrmix"), [0.7, 0.6])
    np.testing.assert_allclose(drawn(ax, "own"), [0.66, 0.65])
    np.testing.assert_allclose(drawn(ax, "best baseline"), [0.8, 0.8])
    assert texts(ax).count("shared model") == 2 and "pass own=" not in caplog.text


def test_share_says_what_is_not_recorded(slides, texts, caplog):
    with caplog.at_level("INFO"):
        snrmix.pl.share(slides)
    assert "has the scores of one model per library: pass own=" in caplog.text
    for one in slides.uns["snrmix"]["libraries"].values():
        one["sharing"] = {"weight": 0.4, "mse_ratio_own": 0.72, "mse_ratio_shared": 0.71}
    ax = snrmix.pl.share(slides)
    np.testing.assert_allclose(drawn(ax, "shared model"), [0.71, 0.71])
    assert texts(ax).count("both, 40% shared") == 2
    del slides.uns["snrmix"]["libraries"]
    with pytest.raises(KeyError, match="is of a single library"):
        snrmix.pl.share(slides)
