"""Parts of an encoder: which parameters are trained, which blocks are computed twice to save memory."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils.checkpoint import checkpoint


def trained_parameters(encoder: torch.nn.Module, last: bool, example: torch.Tensor) -> list[str]:
    """Names of the parameters that fine-tuning changes: those that the features depend on.

    Parameters
    ----------
    encoder
        From patches (b, 3, size, size) to features (b, d).
    last
        Only those of the last block (`last_block`) and of what is registered after it, such as a final norm.
    example
        A few patches.

    Raises
    ------
    ValueError
        For an encoder without parameters, or whose features no gradient reaches.
    """
    named = dict(encoder.named_parameters())
    for parameter in named.values():
        parameter.requires_grad_(True)
    with torch.enable_grad():
        features = encoder(example)
    if not named or not features.requires_grad:
        raise ValueError(
            f"{type(encoder).__name__} cannot be fine-tuned: its features depend on no parameter. Use finetune=False, or an "
            "encoder that computes with gradients (no torch.no_grad or numpy inside)."
        )
    gradients = torch.autograd.grad(features.sum(), list(named.values()), allow_unused=True)
    used = [name for name, gradient in zip(named, gradients, strict=True) if gradient is not None]
    if not last:
        return used
    first = next(iter(last_block(encoder).parameters()))
    start = next(i for i, parameter in enumerate(named.values()) if parameter is first)
    later = set(list(named)[start:])
    return [name for name in used if name in later]


def last_block(encoder: torch.nn.Module) -> torch.nn.Module:
    """The last of the repeated blocks of an encoder, such as a transformer layer or a stage of a convolutional network.

    Blocks are the children with parameters of a ``Sequential`` or ``ModuleList`` that has two or more of the same type.
    Of several such containers the last one counts that lies in no other.

    Raises
    ------
    ValueError
        When there are none.
    """
    return blocks(encoder)[-1][-1]


def blocks(encoder: torch.nn.Module) -> list[list[torch.nn.Module]]:
    """The repeated blocks of an encoder, container by container, outermost ones only; see `last_block`."""
    for composite in (True, False):  # single layers count as blocks where there is nothing larger
        found, inside = [], set()
        for module in encoder.modules():
            if module in inside or not isinstance(module, torch.nn.Sequential | torch.nn.ModuleList):
                continue
            children = [c for c in module.children() if any(True for _ in c.parameters())]
            children = [c for c in children if not composite or any(True for _ in c.children())]
            if children and Counter(map(type, children)).most_common(1)[0][1] > 1:
                found.append(children)
                inside |= set(module.modules())
        if found:
            return found
    raise ValueError(
        f"{type(encoder).__name__} has no Sequential or ModuleList of repeated blocks, so its last block is unknown: "
        'use finetune=True in place of finetune="last".'
    )


def checkpoint_blocks(encoder: torch.nn.Module) -> None:
    """Compute the inside of every block again in the backward pass, in place of keeping it: less memory, more time.

    timm's models know how to (``set_grad_checkpointing``); for others the repeated blocks are wrapped, in place.
    """
    own = [m for m in encoder.modules() if hasattr(m, "set_grad_checkpointing")]
    if own:
        own[0].set_grad_checkpointing(True)
        return
    for block in (block for container in blocks(encoder) for block in container):
        block.forward = _recomputed(block.forward)


def _recomputed(forward):
    return lambda *args, **options: checkpoint(forward, *args, use_reentrant=False, **options)
