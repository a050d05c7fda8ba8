import numpy as np
import pytest
from scipy.optimize import nnls

from snrmix.engine import stack
from snrmix.engine.stack import Stack, combine, fit_stack, non_negative, solve, sum_products


def simulate(weights, noise=0.3, n=600, genes=40, n_folds=5, seed=0):
    """Observed values that are weighted deviations of independent predictors from the fold's mean, plus noise."""
    rng = np.random.default_rng(seed)
    fold = rng.permutation(np.arange(n) % n_folds)
    mean = 5 + rng.normal(0, 0.1, (n_folds, genes))
    predicted = [mean[fold] + rng.normal(size=(n, genes)) for _ in weights]
    observed = mean[fold] + noise * rng.normal(size=(n, genes))
    for weight, values in zip(weights, predicted, strict=True):
        observed += weight * (values - mean[fold])
    return observed.astype(np.float32), [p.astype(np.float32) for p in predicted], mean, fold


def deviations(observed, predicted, mean, fold, gene):
    """Design and right-hand side of one gene's least squares."""
    base = mean[fold, gene]
    return np.column_stack([p[:, gene] - base for p in predicted]), observed[:, gene] - base


def test_known_weights_are_recovered():
    """All but the share of 610 spots that is the expectation of equal weights."""
    fitted = fit_stack(*simulate(weights := np.array([0.8, 0.3])))
    expected = (600 * weights + stack.PRIOR_SPOTS * 0.5) / (600 + stack.PRIOR_SPOTS)
    np.testing.assert_allclose(fitted.shared, expected, atol=0.01)
    np.testing.assert_allclose(fitted.weights, np.repeat(weights[:, None], 40, 1), atol=0.05)
    assert fitted.spread <= 0.05  # all genes have the same


def test_genes_that_differ_keep_weights_of_their_own():
    rng = np.random.default_rng(1)
    truth = rng.uniform(0, 1.2, (2, 40))
    fitted = fit_stack(*simulate(truth))
    assert fitted.spread >= 0.2
    np.testing.assert_allclose(fitted.weights, truth, atol=0.06)


def test_genes_that_nobody_predicts_fall_back_to_the_mean():
    truth = np.zeros((2, 40))
    truth[:, :20] = [[0.9], [0.4]]
    observed, predicted, mean, fold = simulate(truth, noise=1.0)
    fitted = fit_stack(observed, predicted, mean, fold)
    np.testing.assert_allclose(fitted.weights[:, :20], truth[:, :20], atol=0.15)
    assert fitted.weights[:, 20:].max() < 0.12
    null = slice(20, None)
    ours, plain = (np.mean((v[:, null] - observed[:, null]) ** 2) for v in (fitted.out_of_fold, mean[fold]))
    assert ours < 1.005 * plain


def test_wide_prior_is_non_negative_least_squares_per_gene():
    truth = np.random.default_rng(2).uniform(-0.6, 1.0, (3, 30))
    case = simulate(truth, genes=30)
    weights, _ = solve(sum_products(*case), 1e4)
    wanted = np.array([nnls(*deviations(*case, g))[0] for g in range(30)]).T
    assert (wanted == 0).sum() > 10 and (weights == 0).sum() == (wanted == 0).sum()
    np.testing.assert_allclose(weights, wanted, atol=1e-5)


@pytest.mark.parametrize("prior_spots", [0, 40])
def test_no_spread_is_one_least_squares_for_all_genes(prior_spots):
    """The expectation of equal weights is worth so many spots of the predictors' mean square in every gene."""
    case = simulate(np.random.default_rng(3).uniform(0, 1, (2, 10)), genes=10, n=120)
    weights, shared = solve(sum_products(*case), 0.0, prior_spots)
    designs, rights = zip(*(deviations(*case, g) for g in range(10)), strict=True)
    design, right = np.vstack(designs), np.concatenate(rights)
    size = np.sqrt(prior_spots * 10 * np.mean(design**2))
    design, right = np.vstack([design, size * np.eye(2)]), np.append(right, [size / 2, size / 2])
    np.testing.assert_allclose(shared, nnls(design, right)[0], atol=1e-6)
    np.testing.assert_array_equal(weights, np.repeat(shared[:, None], 10, 1))


def test_few_spots_do_not_tell_predictors_apart():
    """Nearly the same predictor twice: what a few spots say of the difference is mostly noise."""
    observed, (first, second), mean, fold = simulate([0.9, 0.0], noise=2.0, n=36, genes=30)
    case = observed, [first, first + 0.05 * second], mean, fold
    freely = solve(sum_products(*case), 0.0, 0)[1]
    gap = [np.ptp(fit_stack(*case, compact).shared) for compact in (False, True)]
    assert np.ptp(freely) > 0.8 > 0.6 > gap[0] > 2 * gap[1]
    assert all(0.75 < fit_stack(*case, compact).shared.sum() < 1.05 for compact in (False, True))


@pytest.mark.parametrize(("n", "compact", "alike"), [(600, False, False), (600, True, True), (60, False, True)])
def test_genes_have_weights_of_their_own_where_many_spots_tell(n, compact, alike):
    case = simulate(np.random.default_rng(1).uniform(0, 1.2, (2, 40)), n=n)
    fitted = fit_stack(*case, compact)
    assert (fitted.spread == 0) == alike == bool((fitted.weights == fitted.weights[:, :1]).all())


@pytest.mark.parametrize("spread", [0.05, 0.4])
def test_weights_minimise_the_documented_objective(spread):
    """Shrinkage is least squares with one more row per predictor."""
    case = simulate(np.random.default_rng(4).uniform(-0.3, 1, (2, 12)), genes=12, noise=2.0, n=80)
    weights, shared = solve(sum_products(*case), spread)
    for g in range(12):
        design, right = deviations(*case, g)
        sd = np.sqrt(np.mean((right - design @ shared) ** 2))
        rows = np.vstack([design / sd, np.eye(2) / spread])
        np.testing.assert_allclose(weights[:, g], nnls(rows, np.append(right / sd, shared / spread))[0], atol=1e-5)


def test_every_support_is_tried():
    rng = np.random.default_rng(5)
    roots, right = rng.normal(size=(200, 3, 3)), rng.normal(size=(3, 200))
    normal = np.einsum("gij,gik->jkg", roots, roots)
    found = non_negative(normal, right)
    for g in range(200):
        wanted = nnls(roots[g], np.linalg.solve(roots[g].T, right[:, g]))[0]
        value, best = (w @ normal[..., g] @ w - 2 * right[:, g] @ w for w in (found[:, g], wanted))
        assert (found[:, g] >= 0).all() and value <= best + 1e-5 * max(1, abs(best))


def test_collinear_predictors_and_constant_genes_are_harmless():
    observed, predicted, mean, fold = simulate([0.7], genes=6)
    predicted = [predicted[0], predicted[0].copy()]
    observed[:, 0] = mean[:, 0] = 5
    for values in predicted:
        values[:, 0] = 5
    fitted = fit_stack(observed, predicted, mean, fold)
    np.testing.assert_allclose(fitted.weights[:, 1:].sum(0), 0.7, atol=0.05)
    assert np.isfinite(fitted.weights).all() and (fitted.out_of_fold[:, 0] == 5).all()


def test_out_of_fold_values_use_weights_of_the_other_folds(monkeypatch):
    """With the spread given, a fold's own observations do not touch its values; they do those of the others."""
    monkeypatch.setattr(stack, "PRIOR_SPREADS", (0.4,))
    observed, predicted, mean, fold = simulate([0.6, 0.4])
    before = fit_stack(observed, predicted, mean, fold)
    changed = observed.copy()
    changed[fold == 2] = np.random.default_rng(0).uniform(0, 10, changed[fold == 2].shape)
    after = fit_stack(changed, predicted, mean, fold)
    np.testing.assert_array_equal(after.out_of_fold[fold == 2], before.out_of_fold[fold == 2])
    assert (after.out_of_fold[fold != 2] != before.out_of_fold[fold != 2]).mean() > 0.9
    assert (after.weights != before.weights).any()
    for k in range(5):
        others = fit_stack(observed[fold != k], [p[fold != k] for p in predicted], mean, fold[fold != k])
        wanted = combine([p[fold == k] for p in predicted], mean[k], others.weights)
        np.testing.assert_allclose(before.out_of_fold[fold == k], wanted, rtol=1e-5)


def test_shrinkage_chosen_is_that_of_least_error_on_other_folds():
    case = simulate(np.random.default_rng(6).uniform(0.3, 0.7, (2, 40)), noise=1.5, n=150)
    fitted = fit_stack(*case)
    observed, predicted, mean, fold = case

    def error(spread):
        products = sum_products(*case)
        total = 0.0
        for k in range(5):
            weights = solve(products.without(k), spread)[0]
            values = mean[k] + sum(w * (p[fold == k] - mean[k]) for w, p in zip(weights, predicted, strict=True))
            total += np.sum((values - observed[fold == k]) ** 2)
        return total

    errors = [error(spread) for spread in stack.PRIOR_SPREADS]
    assert fitted.spread == stack.PRIOR_SPREADS[int(np.argmin(errors))]


def test_order_of_spots_and_genes_does_not_matter():
    observed, predicted, mean, fold = simulate([0.6, 0.4])
    rng = np.random.default_rng(0)
    rows, genes = rng.permutation(len(fold)), rng.permutation(observed.shape[1])
    plain = fit_stack(observed, predicted, mean, fold)
    moved = fit_stack(observed[rows][:, genes], [p[rows][:, genes] for p in predicted], mean[:, genes], fold[rows])
    assert isinstance(moved, Stack)
    np.testing.assert_allclose(moved.weights, plain.weights[:, genes], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moved.out_of_fold, plain.out_of_fold[rows][:, genes], rtol=1e-5)


def test_values_of_expression_are_never_negative():
    values = combine([np.array([[-2.0, 3.0]], np.float32)], np.array([0.5, 0.5]), np.ones((1, 2)))
    np.testing.assert_array_equal(values, [[0.0, 3.0]])
    assert values.dtype == np.float32
