"""Published settings of the method, by name: arguments of `snrmix.tl.impute` that go together."""

from __future__ import annotations

from collections.abc import Mapping

from snrmix._names import closest, listing
from snrmix.engine.losses import Losses
from snrmix.engine.mix import SNRMixing, resolve_mixing
from snrmix.engine.options import Finetuning

RECIPE = {
    "encoder": "timm:vit_large_patch16_224",
    "scales": (1.12,),  # of a Visium pitch: 112 um, which 224 px of 0.5 um are
    "genes": 250,
    "n_folds": 1,
    "n_repeats": 1,
    "validation": 0.4,  # of the half that is measured: 30 % train, 20 % validate, 50 % test
    "kriging": False,
    "finetune": True,
    "finetuning": Finetuning(
        max_epochs=200,
        patience=200,  # all epochs are trained, the best one is kept
        batch_size=8,
        learning_rate=3e-5,
        head_learning_rate=3e-5,
        min_learning_rate=1e-7,
        warm_up=0,
        weight_decay=1e-4,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_average=0.0,
        clip=None,
        dropout=0.2,
        start="zero",
        augment=False,
    ),
}
PRESETS: dict[str, Mapping[str, object]] = {
    # SNR-ST-Mix as arXiv:2606.08712 describes it: spatial graph, Gaussian kernel.
    # The weight of the edge term is not stated: 50 / n of the program, for the 1,200 training spots of its sections.
    "paper": {**RECIPE, "mix": SNRMixing(k=30, sigma=0.25), "losses": Losses(1.0, 0.5, 0.04, 0.05)},
    # SNR-ST-Mix as in the authors' program: expression graph, unsquared kernel, edge weights over all spots.
    "authors_code": {**RECIPE, "mix": resolve_mixing("snr_expression"), "losses": Losses(1.0, 0.5, 50.0, 0.05)},
}


def apply_preset(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """Arguments of a preset, and those that the user gave, which win.

    Parameters
    ----------
    name
        ``"paper"`` or ``"authors_code"``.
    given
        Arguments of `snrmix.tl.impute` that were given, by name.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset={name!r}; available: {listing(PRESETS)}.{closest(name, PRESETS)}")
    return {**PRESETS[name], **given}
