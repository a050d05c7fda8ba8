import numpy as np
import pytest

from snrmix.engine.sharing import Shared, weigh_sharing


def draw(seed, sd_own, sd_shared, n=200, genes=40):
    """Observed values, two predictions with errors of these sizes, and folds."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(3, 0.5, (n, genes)).astype(np.float32)
    observed = truth + rng.normal(0, 0.7, truth.shape).astype(np.float32)
    own, shared = (truth + rng.normal(0, sd, truth.shape).astype(np.float32) for sd in (sd_own, sd_shared))
    return observed, own, shared, np.arange(n) % 5


def test_the_better_prediction_weighs_more_and_both_are_better_than_either():
    """Independent errors: the best weight is that of inverse variances."""
    for sd_own, sd_shared in [(0.3, 0.3), (0.4, 0.2)]:
        sharing = weigh_sharing(*draw(0, sd_own, sd_shared))
        assert abs(sharing.weight - sd_own**2 / (sd_own**2 + sd_shared**2)) < 0.06
        assert sharing.error["both"] < min(sharing.error["own"], sharing.error["shared"])


def test_what_says_nothing_is_not_taken():
    """A prediction that is right but for noise, and one that is elsewhere altogether."""
    observed, own, shared, fold = draw(0, 0.05, 2.0)
    sharing = weigh_sharing(observed, own, shared, fold)
    assert sharing.error["both"] < sharing.error["own"] + 1e-3
    nothing = weigh_sharing(observed, observed - 0.1, shared, fold)
    assert nothing.error["shared"] > nothing.error["own"]


def test_no_gain_leaves_the_own_model_as_it_is():
    observed, own, _, fold = draw(0, 0.3, 0.3)
    worse = own + np.random.default_rng(1).normal(0, 0.5, own.shape).astype(np.float32)
    sharing = weigh_sharing(observed, own, worse, fold)
    assert sharing.weight == 0 and not sharing.weights.any()
    assert sharing.out_of_fold is own
    stacked = Shared(own, own[:5], None)
    taken = sharing.take(np.arange(len(own)), stacked, Shared(worse, worse[:5], None))
    assert taken[0] is own and taken[1] is stacked.predicted


def test_genes_have_weights_of_their_own_where_they_differ():
    observed, own, shared, fold = draw(0, 0.6, 0.1)
    own[:, :20], shared[:, :20] = shared[:, :20].copy(), own[:, :20].copy()
    sharing = weigh_sharing(observed, own, shared, fold)
    assert sharing.weights[:20].max() < 0.4 and sharing.weights[20:].min() > 0.6


def test_weights_that_score_a_fold_do_not_see_it():
    observed, own, shared, fold = draw(0, 0.4, 0.4)
    first = weigh_sharing(observed, own, shared, fold)
    other = observed.copy()
    other[fold == 2] += np.random.default_rng(2).normal(0, 0.05, other[fold == 2].shape)
    second = weigh_sharing(other, own, shared, fold)
    assert (first.out_of_fold[fold == 2] == second.out_of_fold[fold == 2]).all()
    assert (first.out_of_fold[fold == 1] != second.out_of_fold[fold == 1]).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_of_weighing_is_small(seed):
    """With 45 spots, against the best of own, shared and their mean on new spots of the same kind."""
    for sds in [(0.3, 0.3), (0.3, 0.6), (0.5, 0.2)]:
        observed, own, shared, fold = draw(seed, *sds, n=2045)
        some = np.arange(45)
        sharing = weigh_sharing(*(values[some] for values in (observed, own, shared, fold)))
        new, weights = slice(45, None), sharing.weights.astype(np.float32)
        errors = [
            ((observed[new] - values[new]) ** 2).mean()
            for values in (own, shared, (own + shared) / 2, own + weights * (shared - own))
        ]
        assert errors[3] < min(errors[:3]) + 0.006
