import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import nn

from snrmix.engine.finetune.blocks import trained_parameters
from snrmix.engine.finetune.finetuner import Finetuner
from snrmix.engine.finetune.fit import first_network, fit_finetuned
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import SNRMixing
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Finetuning
from snrmix.engine.patches import PatchStore
from snrmix.engine.section import Section

SIZE = 16


FAST = {"max_epochs": 2, "batch_size": 8, "accelerator": "cpu", "progress": False}


ALL_PLAIN = Losses(vicinal=1, consistency=0, edge=0, correlation=0)


class TinyEncoder(nn.Module):
    """Two convolutional blocks and an average: 12 features."""

    def __init__(self, seed=0, norm=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            channels = (3, 8, 12)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b) if norm else nn.Identity(), nn.GELU())
                for a, b in zip(channels, channels[1:], strict=False)
            )
            self.last = nn.Linear(12, 12)
            self.unused = nn.Linear(12, 5)

    def forward(self, patches):
        for block in self.blocks:
            patches = block(patches)
        return self.last(patches.mean((2, 3)))


def noise(n=40, scales=1, seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, scales, SIZE, SIZE, 3), dtype=np.uint8)


def section_of(expression, measured=None, n=None):
    """One library on a line; the nearest spots from a k-d tree."""
    n = len(expression) if n is None else n
    measured = np.arange(n) if measured is None else measured
    positions = np.column_stack([np.arange(n), np.zeros(n)]).astype(float)

    def neighbours(train, k, values=None):
        space = positions[measured[train]] if values is None else values
        return cKDTree(space).query(space, k + 1)[1][:, 1:]

    return Section(
        np.zeros((n, 0), np.float32), np.zeros(0, bool), positions, np.zeros(n, int), measured, expression,
        np.ones(len(measured)), neighbours,
    )  # fmt: skip


def two_folds(n):
    odd = np.arange(n) % 2 == 1
    return [Fold(np.flatnonzero(~odd), np.flatnonzero(odd)), Fold(np.flatnonzero(odd), np.flatnonzero(~odd))]


def expression_of(n=40, genes=4, seed=1):
    return np.random.default_rng(seed).normal(2, 1, (n, genes)).astype(np.float32)


def fit(section, pixels, folds=None, encoder=None, mixing=None, losses=None, seed=0, **options):
    return fit_finetuned(
        section, PatchStore.of(pixels), folds or two_folds(len(section.measured)), encoder or TinyEncoder(),
        mixing or SNRMixing(k=5), losses or Losses(), Finetuning(**{**FAST, **options}), seed,
    )  # fmt: skip


def tuner(mixing=None, encoder=None, pixels=None, losses=None, **options):
    """A `Finetuner` at the first step, outside of a trainer."""
    pixels, expression = noise() if pixels is None else pixels, expression_of()
    encoder, options = encoder or TinyEncoder(), Finetuning(**{**FAST, "dropout": 0.0, "start": "zero", **options})
    section, fold, mixing = section_of(expression), two_folds(40)[0], mixing or SNRMixing(k=5)
    target = make_targets(expression, fold.train)
    table = partner_table([target], [fold], section.neighbours, mixing, 0)
    trained = trained_parameters(encoder, options.part == "last", torch.rand(2, 3, SIZE, SIZE))
    features = np.random.default_rng(0).normal(size=(40, 12 * pixels.shape[1])).astype(np.float32)
    network = first_network(encoder, trained, features, target, fold, options)
    torch.nn.init.normal_(network.weight, generator=torch.Generator().manual_seed(0))
    module = Finetuner(network, PatchStore.of(pixels), target, fold, table, mixing, losses or Losses(), options, 0)
    module.on_fit_start()
    module.order, module.epoch_loss = module.table.train, torch.zeros(1)
    return module


def spy(module):
    """Record what goes into the network and into the loss."""
    seen = {}

    def network(patches, keep=1.0, inner=module.network.forward):
        seen["patches"] = patches
        seen["outputs"] = inner(patches, keep)
        return seen["outputs"]

    def losses(mixed, ends, first, second, share, edge_weight=None, inner=module.losses):
        seen.update(mixed=mixed, ends=ends, first=first, second=second, share=share)
        seen["target"] = torch.lerp(second, first, share)
        return inner(mixed, ends, first, second, share, edge_weight)

    losses.needs_ends, losses.edge = module.losses.needs_ends, module.losses.edge
    module.network.forward, module.losses = network, losses
    return seen


@pytest.fixture(scope="session", name="TinyEncoder")
def give_tinyencoder():
    return TinyEncoder


@pytest.fixture(scope="session", name="noise")
def give_noise():
    return noise


@pytest.fixture(scope="session", name="section_of")
def give_section_of():
    return section_of


@pytest.fixture(scope="session", name="two_folds")
def give_two_folds():
    return two_folds


@pytest.fixture(scope="session", name="expression_of")
def give_expression_of():
    return expression_of


@pytest.fixture(scope="session", name="fit")
def give_fit():
    return fit


@pytest.fixture(scope="session", name="tuner")
def give_tuner():
    return tuner


@pytest.fixture(scope="session", name="spy")
def give_spy():
    return spy


@pytest.fixture(scope="module")
def fitted():
    """A section of which every third site is unmeasured, and two networks."""
    measured = np.flatnonzero(np.arange(60) % 3 > 0)
    section, pixels = section_of(expression_of(), measured, 60), noise(60)
    return section, pixels, fit(section, pixels, max_epochs=4)
