"""Networks that are trained end to end on mixed patches, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from snrmix._log import logger
from snrmix._memory import halved
from snrmix._progress import stage
from snrmix.engine.finetune.blocks import checkpoint_blocks, trained_parameters
from snrmix.engine.finetune.finetuner import Finetuner
from snrmix.engine.finetune.patch_network import PatchNetwork, encode_scales, predict, without_gradients
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import Mixing
from snrmix.engine.network.crossfit import join_folds
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import Targets, make_targets
from snrmix.engine.options import Finetuning
from snrmix.engine.patches import PatchStore, to_float
from snrmix.engine.scaling import PENALTIES, standard_scale
from snrmix.engine.section import Section
from snrmix.engine.trainer import device_of, train

SMALLEST_BATCH = 2  # of pairs


@dataclass(frozen=True)
class FinetunedFit:
    """Fine-tuned networks of all folds with the targets they predict, and their out-of-fold predictions.

    Parameters
    ----------
    encoder
        As it came; every network changes some of its parameters.
    weights
        Of every network: the parameters of a `PatchNetwork` that training changed, its centre and inverse scale.
    targets
        Of every network.
    out_of_fold
        float32, shape (measured, genes); NaN where a spot was never held out.
    history
        ``train_loss`` and ``validation_mse``, (K, epochs), NaN after a network has stopped, and ``best_epoch``, (K,).
    options
        What the networks were trained with.
    """

    encoder: torch.nn.Module
    weights: list[dict[str, torch.Tensor]]
    targets: list[Targets]
    out_of_fold: np.ndarray
    history: dict[str, np.ndarray]
    options: Finetuning

    def predict(self, patches: PatchStore) -> np.ndarray:
        """Mean of the networks' predictions, float32, shape (len(patches), genes)."""
        if not len(patches):  # an encoder need not take an empty batch
            return np.zeros((0, len(self.targets[0].mean)), np.float32)
        device = device_of(self.options)
        read, rows = patches.reader(device), torch.arange(len(patches))
        total = np.zeros((len(patches), len(self.targets[0].mean)), np.float32)
        for weights, target in zip(self.weights, self.targets, strict=True):
            parts = (weights[name] for name in ("centre", "inverse_scale", "weight", "bias"))
            network = PatchNetwork(self.encoder, *parts, self.options.precision).to(device).eval()
            weights = {name: value.to(device) for name, value in weights.items()}
            outputs = predict(network, weights, read, rows.to(device))
            total += target.to_genes(outputs.cpu().numpy())
        self.encoder.cpu()
        return total / len(self.targets)


def fit_finetuned(
    section: Section, patches: PatchStore, folds: list[Fold], encoder: torch.nn.Module, mixing: Mixing, losses: Losses,
    options: Finetuning, seed: int,
) -> FinetunedFit:  # fmt: skip
    """Cross-fit networks that are trained end to end, each from the same encoder.

    Every network keeps the weights of the epoch with the least error on its held-out spots. Their own predictions are taken
    half by half from the epoch that the other half chose, see `snrmix.engine.network.selection.Selection`.

    Parameters
    ----------
    section, folds
        As in `snrmix.engine.network.crossfit.fit_network`; features of the section are not used.
    patches
        Of all sites of the section.
    encoder
        From float RGB in 0..1, (b, 3, size, size), to features (b, d). It is copied, and left as it is.
    mixing, losses, options
        The strategy, the weights of the loss terms, and how to train.
    seed
        Seed of all randomness; torch's global state is left as it was.

    Raises
    ------
    ValueError, TypeError
        For an encoder that cannot be trained, or whose output is not (patches, features) and finite.
    """
    from lightning.pytorch.utilities.seed import isolate_rng

    check_encoder(encoder, type(encoder).__name__)
    if len(patches) != len(section.library):
        raise ValueError(f"there are patches of {len(patches)} sites, but the section has {len(section.library)}.")
    encoder, own = copy.deepcopy(encoder).cpu().eval(), patches[section.measured]
    weights, targets, held_out = [], [], []
    history = {"train_loss": [], "validation_mse": [], "best_epoch": []}
    with stage("fine-tuning", len(folds) * options.max_epochs), isolate_rng():
        features = first_features(encoder, own, options)
        trained = trained_parameters(encoder, options.part == "last", example(own))
        _report(encoder, trained, own, options)
        for k, fold in enumerate(folds):
            own_seed = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
            torch.manual_seed(own_seed)  # for dropout inside the encoder
            target = make_targets(section.expression, fold.train)
            library = section.library[section.measured]
            table = partner_table([target], [fold], section.neighbours, mixing, own_seed, library)

            def start(options, target=target, fold=fold, table=table, own_seed=own_seed):
                network = first_network(encoder, trained, features, target, fold, options)
                return Finetuner(network, own, target, fold, table, mixing, losses, options, own_seed)

            module, options = train_within_memory(start, options)
            network, selection, module.selection = module.network, module.selection, None
            kept = selection.kept[0] | {"centre": network.centre, "inverse_scale": network.inverse_scale}
            weights.append({name: value.cpu() for name, value in kept.items()})
            targets.append(target)
            held_out.append(selection.held_out[0].cpu().numpy())
            history["train_loss"].append(np.ravel(module.train_loss))
            history["validation_mse"].append(np.ravel(selection.curve))
            history["best_epoch"].append(selection.best_epoch)
    history = {
        "train_loss": _padded(history["train_loss"]),
        "validation_mse": _padded(history["validation_mse"]),
        "best_epoch": np.concatenate(history["best_epoch"]),
    }
    out_of_fold = join_folds(section.expression.shape, folds, targets, held_out)
    return FinetunedFit(encoder, weights, targets, out_of_fold, history, options)


def train_within_memory(start: Callable[[Finetuning], Finetuner], options: Finetuning) -> tuple[Finetuner, Finetuning]:
    """A trained network, and the options it was trained with: where a GPU has no room, it starts again with half the batch."""
    while True:
        module = start(options)
        try:
            train(module, options, options.clip)
        except torch.OutOfMemoryError as error:
            del module
            options = replace(options, batch_size=halved(options.batch_size, SMALLEST_BATCH, error))
            continue
        return module, options


def check_encoder(encoder, name: str) -> None:
    """Refuse what has nothing to train.

    Raises
    ------
    TypeError
        For anything but a ``torch.nn.Module`` with parameters.
    """
    if not isinstance(encoder, torch.nn.Module) or not any(True for _ in encoder.parameters()):
        raise TypeError(
            f"encoder {name!r} has no parameters to fine-tune: use finetune=False, or an encoder that is a torch.nn.Module "
            "with parameters."
        )


def first_features(encoder: torch.nn.Module, patches: PatchStore, options: Finetuning) -> np.ndarray:
    """Features of the untrained encoder, float32, shape (n, scales x d), checked.

    Raises
    ------
    TypeError, ValueError
        For an encoder whose output is not (patches, features) and finite.
    """
    with torch.no_grad():
        few = encoder(example(patches))
    if not isinstance(few, torch.Tensor) or few.ndim != 2 or len(few) != len(example(patches)):
        shape = tuple(few.shape) if isinstance(few, torch.Tensor) else type(few).__name__
        raise ValueError(
            f"{type(encoder).__name__} returned {shape}; expected a tensor (patches, features): pool over the image."
        )
    device = device_of(options)
    read = patches.reader(device)
    encoder.to(device)
    features = without_gradients(
        lambda rows: encode_scales(encoder, to_float(read(rows)), options.precision).cpu(), torch.arange(len(patches))
    )
    encoder.cpu()
    features = features.numpy()
    if not np.isfinite(features).all():
        raise ValueError(f"{type(encoder).__name__} returned values that are not finite (NaN or infinity).")
    return features


def first_network(
    encoder: torch.nn.Module, trained: list[str], features: np.ndarray, target: Targets, fold: Fold, options: Finetuning
) -> PatchNetwork:
    """A copy of the encoder, and a head that starts from what its features are worth as they are."""
    encoder = copy.deepcopy(encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in trained)
    if options.checkpointing:
        checkpoint_blocks(encoder)
    centre, inverse_scale = standard_scale(features, fold.train)
    weight = np.zeros((features.shape[1], target.values.shape[1]), np.float32)
    bias = np.zeros(target.values.shape[1], np.float32)
    if options.start == "ridge":
        from sklearn.linear_model import RidgeCV

        scaled = ((features[fold.train] - centre) * inverse_scale).astype(np.float64)
        ridge = RidgeCV(PENALTIES * features.shape[1]).fit(scaled, target.values[fold.train])
        weight[:], bias[:] = ridge.coef_.reshape(weight.shape[::-1]).T, ridge.intercept_
    return PatchNetwork(encoder, centre, inverse_scale, weight, bias, options.precision)


def example(patches: PatchStore) -> torch.Tensor:
    """Two patches as an encoder takes them, on the CPU."""
    return to_float(patches.reader(torch.device("cpu"))(torch.arange(2)))[:, 0]


def _report(encoder: torch.nn.Module, trained: list[str], patches: PatchStore, options: Finetuning) -> None:
    sizes = {name: parameter.numel() for name, parameter in encoder.named_parameters()}
    logger.info(
        "fine-tuning %s of %s parameters of the encoder on %d spots (%d px, %d scale(s)) for up to %d epochs.",
        f"{sum(sizes[name] for name in trained):,}", f"{sum(sizes.values()):,}", len(patches), patches.size,
        patches.scales, options.max_epochs,
    )  # fmt: skip


def _padded(rows: list) -> np.ndarray:
    """Curves of unequal length as an array, NaN after their end."""
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return table
