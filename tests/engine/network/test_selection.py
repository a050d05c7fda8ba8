import numpy as np
import pytest
import torch

from snrmix.engine.folds import Fold
from snrmix.engine.network.selection import Selection
from snrmix.engine.options import Training


def run(selection, errors):
    """Feed epochs of errors, (epochs, K, spots); weights and predictions are the number of the epoch."""
    stopped = None
    for epoch, now in enumerate(errors):
        k = len(now)
        predicted = [torch.full((len(e), 1), float(epoch)) for e in now]
        weights = {"w": torch.full((k, 1), float(epoch))}
        if selection.update([np.asarray(e, float) for e in now], predicted, weights) and stopped is None:
            stopped = epoch
    return stopped


def folds_with(sizes, repeats):
    return [Fold(np.arange(0), np.arange(size), repeat) for size, repeat in zip(sizes, repeats, strict=True)]


def test_a_network_is_stopped_by_the_other_folds():
    """Best epochs by their own spots would be 0, 1 and 3; by the others' mean 2, 0 or 2, and 1."""
    curves = np.array([[1.0, 5, 3, 9], [6, 2, 4, 9], [7, 7, 3, 1]])
    others = [np.delete(curves, k, 0).mean(0) for k in range(3)]
    selection = Selection(folds_with([4, 2, 3], [0, 0, 0]), Training())
    run(selection, [[np.full(size, curve[e]) for size, curve in zip((4, 2, 3), curves, strict=True)] for e in range(4)])
    wanted = [int(np.argmin(o)) for o in others]
    assert wanted == [2, 2, 0] and list(selection.best_epoch) == wanted
    for k, epoch in enumerate(wanted):
        assert selection.kept[k]["w"].item() == epoch
        assert (selection.held_out[k] == epoch).all()


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_own_errors_never_change_the_epoch(n_folds):
    rng = np.random.default_rng(n_folds)
    folds, errors = folds_with([6] * n_folds, [0] * n_folds), rng.uniform(1, 2, (8, n_folds, 6))
    changed = errors.copy()
    changed[:, 1] = rng.uniform(0, 9, (8, 6))
    first, second = Selection(folds, Training()), Selection(folds, Training())
    run(first, errors), run(second, changed)
    assert first.best_epoch[1] == second.best_epoch[1]
    assert torch.equal(first.held_out[1], second.held_out[1])


def test_only_folds_of_the_same_repeat_judge():
    """The folds of another repeat hold out spots that this network is scored on."""
    rng = np.random.default_rng(0)
    errors = rng.uniform(1, 2, (6, 4, 5))
    folds = folds_with([5] * 4, [0, 0, 1, 1])
    selection = Selection(folds, Training())
    run(selection, errors)
    means = errors.mean(2)
    assert list(selection.best_epoch) == [int(np.argmin(means[:, other])) for other in (1, 0, 3, 2)]


def test_halves_of_a_single_split_judge_each_other():
    errors = np.array([[[9, 1, 9, 1, 9]], [[4, 5, 4, 5, 4]], [[1, 9, 1, 9, 1]]], float)
    selection = Selection(folds_with([5], [0]), Training())
    run(selection, errors)
    # Even places go by the odd ones, best at epoch 0, and odd by even, best at 2; the weights by all: 5.8, 4.4, 4.2.
    assert selection.held_out[0][:, 0].tolist() == [0, 2, 0, 2, 0]
    assert selection.best_epoch[0] == 2 and selection.kept[0]["w"].item() == 2


def test_a_single_held_out_spot_judges_itself():
    selection = Selection(folds_with([1], [0]), Training())
    run(selection, [[[3.0]], [[1.0]], [[2.0]]])
    assert selection.best_epoch[0] == 1 and selection.held_out[0].item() == 1


def test_patience_counts_from_the_last_network_to_improve():
    folds = folds_with([3, 3], [0, 0])
    errors = [[np.full(3, a), np.full(3, b)] for a, b in [(5, 5), (4, 6), (6, 6), (6, 4), (6, 6), (6, 6), (6, 6)]]
    assert run(Selection(folds, Training(patience=3)), errors) == 6
    assert run(Selection(folds, Training(patience=3, early_stopping=False)), errors) is None


def test_without_early_stopping_the_last_weights_are_kept():
    selection = Selection(folds_with([3, 3], [0, 0]), Training(early_stopping=False))
    run(selection, [[np.full(3, e), np.full(3, e)] for e in (1.0, 2.0, 3.0)])
    assert list(selection.best_epoch) == [2, 2] and (selection.held_out[0] == 2).all()
    assert selection.kept[1]["w"].item() == 2
