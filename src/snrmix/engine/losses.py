from __future__ import annotations

from dataclasses import dataclass

import torch

from snrmix import _checks

CORRELATION_EPSILON = 1e-3


@dataclass(frozen=True)
class Losses:
    r"""Weights of the four terms of SNR-ST-Mix (arXiv:2606.08712, equations in ``docs/method.md``).

    All terms are means over spots and genes, in units of the pooled variance of the training expression, so that their
    weights mean the same for any number of spots, neighbours and genes.

    Parameters
    ----------
    vicinal
        ``(f(x~) - y~)^2``.
    consistency
        ``(f(x~) - (lam f(x_i) + (1 - lam) f(x_j)))^2``.
    edge
        ``w_ij ((f(x_i) - f(x_j)) - (y_i - y_j))^2``; as partners are drawn with probability ``p_ij``, ``w_ij = 1`` unless
        the strategy says otherwise (`snrmix.SNRMixing`, ``edge``).
    correlation
        Minus the mean over genes of the Pearson correlation of ``f(x~)`` and ``y~`` within the batch.

    Examples
    --------
    >>> snrmix.tl.impute(adata, measured="measured", losses=snrmix.Losses(edge=0.5))
    """

    vicinal: float = 1.0
    consistency: float = 0.5
    edge: float = 0.1
    correlation: float = 0.1

    def __post_init__(self):
        for name in ("vicinal", "consistency", "edge", "correlation"):
            _checks.not_negative(f"losses: {name}", getattr(self, name))

    @property
    def needs_ends(self) -> bool:
        """Whether a term needs predictions for the two unmixed spots."""
        return self.consistency > 0 or self.edge > 0

    def __call__(self, mixed, ends, target_first, target_second, share, edge_weight=None) -> torch.Tensor:
        """Loss of each network, shape (K,).

        Parameters
        ----------
        mixed
            Predictions for the mixed spots, shape (K, b, genes).
        ends
            Predictions for both partners, each (K, b, genes), or ``None`` when no term needs them.
        target_first, target_second
            Targets of the partners, shape (K, b, genes).
        share
            ``lam``, shape (K, b, 1).
        edge_weight
            ``w_ij``, shape (K, b, 1); ``None``: 1.
        """
        target = torch.lerp(target_second, target_first, share)
        loss = self.vicinal * (mixed - target).square().mean((1, 2))
        if ends is not None:
            first, second = ends
            if self.consistency:
                loss = loss + self.consistency * (mixed - torch.lerp(second, first, share)).square().mean((1, 2))
            if self.edge:
                gap = ((first - second) - (target_first - target_second)).square()
                gap = gap if edge_weight is None else gap * edge_weight
                loss = loss + self.edge * gap.mean((1, 2))
        if self.correlation:
            loss = loss - self.correlation * batch_correlation(mixed, target).mean(1)
        return loss


def batch_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson correlation over the batch, (K, b, genes) -> (K, genes); 0, not NaN, where either is constant."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / torch.sqrt(a.square().sum(1) * b.square().sum(1) + CORRELATION_EPSILON)
