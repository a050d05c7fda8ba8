import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import snrmix
from snrmix.engine.consensus import consensus


def two_means(drawn):
    return KMeans(2, n_init=3, random_state=0).fit_predict(drawn.X)


def test_a_vote_over_names_that_mean_the_same():
    """The same clusters under other names agree; a spot that changes sides has the share of its majority."""
    first = np.repeat([0, 1, 2], [50, 30, 20])
    second, third = (first + 1) % 3, np.array([5, 7, 9])[first]
    third[0] = 7
    cluster, stability = consensus(np.array([first, second, third, first]))
    np.testing.assert_array_equal(cluster, first)
    assert stability[0] == 0.75 and (stability[1:] == 1).all()


def test_clusterings_of_different_numbers_of_clusters():
    first = np.repeat([0, 1], 50)
    split = np.repeat([0, 1, 2], [50, 35, 15])
    cluster, stability = consensus(np.array([first, first, split]))
    np.testing.assert_array_equal(cluster, first)
    assert (stability[:85] == 1).all() and np.allclose(stability[85:], 2 / 3)


@pytest.mark.parametrize("fill", ["unmeasured", "all"])
def test_clusters_of_draws_and_their_stability(fill, made_result):
    adata = made_result(fill, seed=0, noise_genes=10)
    snrmix.tl.leiden_consensus(adata, function=two_means, n_draws=8, key_added="mine")
    truth = KMeans(2, n_init=3, random_state=0).fit_predict(adata.layers["truth"])
    stability = adata.obs["mine_stability"].to_numpy()
    sure, doubtful = (
        adjusted_rand_score(truth[rows], adata.obs["mine"][rows]) for rows in (stability == 1, stability < 0.9)
    )
    assert list(adata.obs["mine"].cat.categories) == ["0", "1"] and ((stability >= 0.5) & (stability <= 1)).all()
    assert sure > 0.45 and sure > doubtful + 0.2


def test_leiden_needs_igraph_or_runs(monkeypatch, made_result):
    adata = made_result("unmeasured", seed=0)
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ImportError, match=r"pip install igraph; or pass function="):
        snrmix.tl.leiden_consensus(adata)
    monkeypatch.undo()
    snrmix.tl.leiden_consensus(adata, resolution=0.5, n_draws=3)
    assert adata.obs["leiden_consensus"].nunique() > 1
    assert adata.obs["leiden_consensus_stability"].between(1 / 3, 1).all()


def test_refusals(assert_unchanged, made_result):
    adata = made_result("unmeasured", seed=0)
    before = adata.copy()
    for options, words in (
        ({"n_draws": 1}, "n_draws=1"),
        ({"resolution": 0}, "resolution=0"),
        ({"function": lambda drawn: [1, 2]}, "must return a label per spot"),
    ):
        with pytest.raises(ValueError, match=words):
            snrmix.tl.leiden_consensus(adata, **options)
    assert_unchanged(before, adata)
