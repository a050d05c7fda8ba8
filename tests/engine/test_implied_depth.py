"""The depth that predictions imply, against profiles that are made at known depths."""

import numpy as np
import pytest

from snrmix.engine.at_depth import SiteDepths
from snrmix.engine.depth import constant_share_at
from snrmix.engine.folds import Fold
from snrmix.engine.implied_depth import imply_depths
from snrmix.engine.section import Section

SHARE, SPOTS, REST = np.geomspace(5e-4, 5e-3, 60), 300, 80


@pytest.fixture
def case():
    """Counts of constant shares; depths whose logs are known to .5; folds; a way to profiles of some depths."""
    rng, n = np.random.default_rng(0), SPOTS + REST
    depth = rng.lognormal(7.5, 1, n)
    counts = rng.poisson(SHARE * depth[:SPOTS, None])
    expression = np.log1p(1e4 * counts / depth[:SPOTS, None]).astype(np.float32)
    nothing, library = np.zeros((n, 0), np.float32), np.zeros(n, int)
    section = Section(
        nothing, np.zeros(0, bool), np.zeros((n, 2)), library, np.arange(SPOTS), expression, depth[:SPOTS], None,
        site_depth=np.where(np.arange(n) < SPOTS, depth, np.nan),
    )  # fmt: skip
    guess = depth * np.exp(0.5 * rng.standard_normal(n))
    depths = SiteDepths(depth[:SPOTS], guess[:SPOTS], guess[SPOTS:], np.full(REST, np.nan))
    number = np.arange(SPOTS) % 5
    folds = [Fold(np.flatnonzero(number != k), np.flatnonzero(number == k)) for k in range(5)]

    def profiles(at):
        values = constant_share_at(expression, depth[:SPOTS], library[:SPOTS], library, at)
        return values[:SPOTS], values[SPOTS:]

    return rng, section, folds, depths, depth, guess, profiles


def missed(depths, depth):
    """Root mean squared error of log depth, measured and not."""
    pairs = (depths.out_of_fold, depth[:SPOTS]), (depths.predicted, depth[SPOTS:])
    return [np.sqrt(np.mean(np.log(found / true) ** 2)) for found, true in pairs]


def test_profiles_of_known_depths_give_them_back(case):
    """From .5 to .17 (spots that were held out) and .14."""
    _, section, folds, depths, depth, _, profiles = case
    assert min(missed(depths, depth)) > 0.4
    assert max(missed(imply_depths(section, folds, depths, *profiles(depth)), depth)) < 0.2


def test_profiles_that_know_no_more_change_nothing(case):
    """Patterns of a gene's own, and steps that have nothing to do with the error: at most .01 more than before."""
    rng, section, folds, depths, depth, guess, profiles = case
    for other in (guess, guess * np.exp(0.3 * rng.standard_normal(len(guess)))):
        own = [values + 0.3 * rng.standard_normal(values.shape).astype(np.float32) for values in profiles(other)]
        found = imply_depths(section, folds, depths, *own)
        assert (np.array(missed(found, depth)) < np.array(missed(depths, depth)) + 0.02).all()


def test_spots_that_were_never_held_out_stay_unknown(case):
    _, section, folds, depths, depth, _, profiles = case
    out_of_fold, predicted = profiles(depth)
    never = folds[0].held_out
    out_of_fold[never], depths.out_of_fold[never] = np.nan, np.nan
    found = imply_depths(section, folds[1:], depths, out_of_fold, predicted)
    assert np.isnan(found.out_of_fold[never]).all() and np.isfinite(found.predicted).all()
    assert np.isfinite(np.delete(found.out_of_fold, never)).all()
    assert imply_depths(section, folds, None, out_of_fold, predicted) is None
