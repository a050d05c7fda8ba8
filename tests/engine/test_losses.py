import numpy as np
import pytest
import torch

from snrmix.engine.losses import Losses, batch_correlation

TERMS = ("vicinal", "consistency", "edge", "correlation")


def only(term):
    return Losses(**{name: float(name == term) for name in TERMS})


def case(k=2, b=24, genes=5, seed=0):
    """Predictions for mixed spots and both ends, targets of both ends, and the shares."""
    rng = torch.Generator().manual_seed(seed)
    mixed, first, second, y_first, y_second = (torch.randn(k, b, genes, generator=rng) for _ in range(5))
    return mixed, (first, second), y_first, y_second, torch.rand(k, b, 1, generator=rng)


def slow(term, mixed, ends, y_first, y_second, share):
    """The equations of docs/method.md, spot by spot and gene by gene, in plain Python."""
    k, b, genes = mixed.shape
    found = []
    for h in range(k):
        total, predictions, targets = 0.0, np.empty((b, genes)), np.empty((b, genes))
        for i in range(b):
            lam = float(share[h, i, 0])
            for g in range(genes):
                f, fi, fj = float(mixed[h, i, g]), float(ends[0][h, i, g]), float(ends[1][h, i, g])
                yi, yj = float(y_first[h, i, g]), float(y_second[h, i, g])
                predictions[i, g], targets[i, g] = f, lam * yi + (1 - lam) * yj
                total += {
                    "vicinal": (f - targets[i, g]) ** 2,
                    "consistency": (f - (lam * fi + (1 - lam) * fj)) ** 2,
                    "edge": ((fi - fj) - (yi - yj)) ** 2,
                    "correlation": 0.0,
                }[term] / (b * genes)
        if term == "correlation":
            total = -np.mean([np.corrcoef(predictions[:, g], targets[:, g])[0, 1] for g in range(genes)])
        found.append(total)
    return found


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_its_equation(term):
    batch = case()
    np.testing.assert_allclose(only(term)(*batch), slow(term, *batch), rtol=1e-4)


def test_terms_add_up_with_their_weights():
    batch, weights = case(), dict(zip(TERMS, (0.7, 0.4, 0.2, 0.3), strict=True))
    wanted = sum(weight * only(term)(*batch) for term, weight in weights.items())
    np.testing.assert_allclose(Losses(**weights)(*batch), wanted, rtol=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_weights_mean_the_same_for_any_batch_size_and_number_of_genes(term):
    mixed, ends, y_first, y_second, share = case()
    wanted = only(term)(mixed, ends, y_first, y_second, share)
    for repeats in ((1, 4, 1), (1, 1, 3)):
        more = [x.repeat(repeats) for x in (mixed, *ends, y_first, y_second)]
        found = only(term)(more[0], (more[1], more[2]), more[3], more[4], share.repeat(1, repeats[1], 1))
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_networks_do_not_mix():
    mixed, ends, y_first, y_second, share = case(k=3)
    together = Losses()(mixed, ends, y_first, y_second, share)
    for h in range(3):
        one = slice(h, h + 1)
        alone = Losses()(mixed[one], (ends[0][one], ends[1][one]), y_first[one], y_second[one], share[one])
        np.testing.assert_allclose(alone, together[one], rtol=1e-5)


def test_nothing_is_lost_by_a_perfect_linear_network():
    _, _, y_first, y_second, share = case()
    perfect = share * y_first + (1 - share) * y_second
    for term in TERMS[:3]:
        np.testing.assert_allclose(only(term)(perfect, (y_first, y_second), y_first, y_second, share), 0, atol=1e-12)
    np.testing.assert_allclose(only("correlation")(perfect, None, y_first, y_second, share), -1, rtol=1e-4)


def test_correlation_of_a_constant_output_is_zero_with_finite_gradient():
    """A zero-initialised head puts out the same for every spot."""
    _, _, y_first, y_second, share = case()
    mixed = torch.zeros_like(y_first, requires_grad=True)
    loss = only("correlation")(mixed, None, y_first, y_second, share)
    loss.sum().backward()
    assert (loss == 0).all() and torch.isfinite(mixed.grad).all() and (mixed.grad != 0).any()
    assert (batch_correlation(y_first, torch.ones_like(y_first)) == 0).all()


def test_ends_are_asked_for_only_where_a_term_needs_them():
    assert Losses().needs_ends and only("edge").needs_ends and only("consistency").needs_ends
    assert not only("vicinal").needs_ends and not only("correlation").needs_ends
    mixed, _, y_first, y_second, share = case()
    without = Losses(consistency=0, edge=0)(mixed, None, y_first, y_second, share)
    wanted = only("vicinal")(mixed, None, y_first, y_second, share)
    np.testing.assert_allclose(
        without, wanted + 0.1 * only("correlation")(mixed, None, y_first, y_second, share), rtol=1e-5
    )


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_weights_must_not_be_negative(term, value):
    with pytest.raises(ValueError, match=f"losses: {term}=.* must not be negative"):
        Losses(**{term: value})
