import copy
import logging

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import nn

from snrmix.engine import patches as patches_module
from snrmix.engine.finetune.blocks import checkpoint_blocks, last_block, trained_parameters
from snrmix.engine.finetune.finetuner import Finetuner
from snrmix.engine.finetune.fit import first_network, fit_finetuned
from snrmix.engine.finetune.patch_network import PatchNetwork
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import MIXINGS, CutMix, Mixup, NoMixing, SNRMixing, resolve_mixing
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Finetuning
from snrmix.engine.patches import PatchStore, allocate, square_symmetries, turn
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


@pytest.fixture(scope="module")
def fitted():
    """A section of which every third site is unmeasured, and two networks."""
    measured = np.flatnonzero(np.arange(60) % 3 > 0)
    section, pixels = section_of(expression_of(), measured, 60), noise(60)
    return section, pixels, fit(section, pixels, max_epochs=4)


# what a step does


@pytest.mark.parametrize("mixing", [Mixup(), SNRMixing(k=5)])
@pytest.mark.parametrize("scales", [1, 2])
def test_labels_are_mixed_in_the_proportion_of_the_pixels(mixing, scales):
    """The share recovered from the mixed pixels by least squares is the one by which labels are mixed."""
    module = tuner(mixing, pixels=noise(scales=scales))
    seen = spy(module)
    module.training_step(0)
    mixed, first, second = seen["patches"].chunk(3)
    assert mixed.shape == (module.batch, scales, 3, SIZE, SIZE)
    gap = (first - second).flatten(1).double()
    found = ((mixed - second).flatten(1) * gap).sum(1) / gap.square().sum(1)
    np.testing.assert_allclose(found, seen["share"][0, :, 0], atol=1e-5)
    residual = mixed - torch.lerp(second, first, found.float()[:, None, None, None, None])
    assert residual.abs().max() < 1e-5 and found.std() > 0.1


@pytest.mark.parametrize("name", ["cutmix", "cellmix", "puzzlemix"])
@pytest.mark.parametrize("scales", [1, 2])
def test_labels_are_mixed_by_the_area_that_is_pasted(name, scales):
    """Black spots, white partners: the share is the black area, at every scale."""
    pixels = noise(scales=scales)
    module = tuner(resolve_mixing(name), pixels=pixels)
    seen = spy(module)
    module.read_pairs = lambda anchors, partners: (
        torch.zeros(len(anchors), scales, 3, SIZE, SIZE),
        torch.ones(len(anchors), scales, 3, SIZE, SIZE),
    )
    module.training_step(0)
    mixed = seen["patches"].chunk(3)[0]
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    for scale in range(scales):
        black = 1 - mixed[:, scale].mean((1, 2, 3))
        np.testing.assert_allclose(black, seen["share"][0, :, 0], atol=1e-6)


def test_predictions_and_labels_belong_to_the_same_spots():
    """A network that tells spots by their patch: both ends and both labels are of the drawn spots."""
    pixels = noise()
    pixels[:, :, 0, 0] = np.arange(40)[:, None, None]  # the number of the spot
    module = tuner(pixels=pixels, augment=False)
    seen = spy(module)
    module.training_step(1)
    _, first, second = (x[:, 0, 0, 0, 0].mul(255).round().long() for x in seen["patches"].chunk(3))
    anchors = module.order[0, module.batch : 2 * module.batch]
    assert torch.equal(first, anchors) and not torch.equal(second, anchors)
    assert torch.equal(seen["first"][0], module.targets[0][first]) and torch.equal(
        seen["second"][0], module.targets[0][second]
    )
    np.testing.assert_allclose(seen["ends"][1][0].detach(), seen["outputs"].chunk(3)[2].detach())


def test_nothing_is_computed_twice_without_partners():
    module = tuner(NoMixing())
    seen = spy(module)
    module.training_step(0)
    assert len(seen["patches"]) == module.batch and seen["ends"] is None
    module = tuner(losses=ALL_PLAIN)
    seen = spy(module)
    module.training_step(0)
    assert len(seen["patches"]) == module.batch and seen["ends"] is None


def test_dropout_hits_a_spot_its_partner_and_their_mixture_alike():
    """Two equal patches then have equal predictions, so that the consistency term is 0."""
    module = tuner(Mixup(), pixels=np.broadcast_to(noise(1), (40, 1, SIZE, SIZE, 3)).copy(), dropout=0.5)
    seen = spy(module)
    module.training_step(0)
    mixed, first, second = seen["outputs"].chunk(3)
    np.testing.assert_allclose(mixed.detach(), first.detach(), atol=1e-5)
    np.testing.assert_allclose(second.detach(), first.detach(), atol=1e-5)
    assert first.std(0).mean() > 0.05  # but not all spots alike


# symmetries


def test_the_eight_symmetries_are_those_of_the_square():
    pixels = torch.from_numpy(noise(1))
    places = square_symmetries(SIZE)
    turned = turn(pixels.expand(8, -1, -1, -1, -1), places)
    image = pixels[0, 0].numpy()
    wanted = [np.rot90(image, q) for q in range(4)] + [np.rot90(image, q)[:, ::-1] for q in range(4)]
    for found, one in zip(turned[:, 0].numpy(), wanted, strict=True):
        np.testing.assert_array_equal(found, one)
    assert len({t.numpy().tobytes() for t in turned}) == 8


def test_both_partners_and_all_scales_are_turned_alike():
    """Patches that are all the same picture: pairs stay equal, and the mixture of a turned pair is the turned mixture."""
    picture = noise(1)
    module = tuner(Mixup(), pixels=np.broadcast_to(picture, (40, 2, SIZE, SIZE, 3)).copy())
    first, second = module.read_pairs(torch.arange(40), torch.arange(40).flip(0))
    assert torch.equal(first, second) and torch.equal(first[:, 0], first[:, 1])
    kinds = {x.numpy().tobytes() for x in first[:, 0]}
    assert len(kinds) == 8  # every symmetry is drawn
    plain = torch.from_numpy(picture[0, 0]).permute(2, 0, 1).float() / 255
    assert plain.contiguous().numpy().tobytes() in {x.contiguous().numpy().tobytes() for x in first[:, 0]}


def test_a_turned_pair_gives_the_turned_mixture():
    module = tuner(Mixup())
    places = square_symmetries(SIZE)
    pixels, share = torch.from_numpy(noise()), torch.rand(20, 1, generator=torch.Generator().manual_seed(0))
    which = places[torch.arange(20) % 8]
    a, b = (x.permute(0, 1, 4, 2, 3).float() for x in (pixels[:20], pixels[20:]))
    mixed = module.mix(a, b, share, None, None)[0]
    turned = module.mix(
        *(turn(x, which).permute(0, 1, 4, 2, 3).float() for x in (pixels[:20], pixels[20:])), share, None, None
    )[0]
    wanted = turn(mixed.permute(0, 1, 3, 4, 2), which).permute(0, 1, 4, 2, 3)
    np.testing.assert_allclose(turned, wanted, atol=1e-4)


def test_without_augmentation_patches_are_as_they_are():
    pixels = noise()
    first, _ = tuner(augment=False, pixels=pixels).read_pairs(torch.arange(40), torch.arange(40))
    np.testing.assert_allclose(first.permute(0, 1, 3, 4, 2), pixels / 255, atol=1e-6)


# what is learnt


def faint(n=128, seed=0):
    """Stripes of random sign, which no linear filter sees on average, and expression that follows their strength."""
    rng = np.random.default_rng(seed)
    strength, sign = rng.uniform(0, 1, n), rng.choice([-1, 1], n)
    stripes = np.where(np.arange(SIZE) % 2, 1, -1) * (strength * sign)[:, None]
    picture = 128 + 40 * stripes[:, None, :, None] + 10 * rng.normal(size=(n, SIZE, SIZE, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)[:, None], (2 + np.outer(strength, [2, -2, 1])).astype(np.float32)


def test_a_signal_that_the_first_encoder_misses_is_learnt():
    """Ridge on the features of the untrained encoder reaches 0.56, training it 0.13; predicting the mean is 1.3."""
    pixels, expression = faint()
    folds = [Fold(np.arange(88), np.arange(88, 128))]
    options = {"batch_size": 16, "dropout": 0.0, "augment": False, "head_learning_rate": 1e-2, "min_learning_rate": 0.0}
    frozen, tuned = (
        fit(section_of(expression), pixels, folds, mixing=NoMixing(), **options, **more)
        for more in (
            {"learning_rate": 1e-9, "start": "ridge", "max_epochs": 1},
            {"learning_rate": 1e-2, "start": "zero", "max_epochs": 25},
        )
    )
    error = [fitted.history["validation_mse"].min() for fitted in (frozen, tuned)]
    assert error[1] < 0.5 * error[0], error


def test_out_of_fold_values_are_predictions_of_the_network_that_did_not_see_the_spot(fitted):
    """Without early stopping, from the very weights that are kept."""
    section, pixels, _ = fitted
    found = fit(section, pixels, early_stopping=False)
    store = PatchStore.of(pixels)[section.measured]
    for k, fold in enumerate(two_folds(40)):
        alone = copy.copy(found)
        object.__setattr__(alone, "weights", found.weights[k : k + 1])
        object.__setattr__(alone, "targets", found.targets[k : k + 1])
        np.testing.assert_allclose(alone.predict(store)[fold.held_out], found.out_of_fold[fold.held_out], atol=1e-4)


def test_predictions_are_the_mean_of_the_networks(fitted):
    section, pixels, found = fitted
    parts = []
    for weights, target in zip(found.weights, found.targets, strict=True):
        network = PatchNetwork(
            copy.deepcopy(found.encoder), *(weights[n] for n in ("centre", "inverse_scale", "weight", "bias")), "fp32"
        )
        network.load_state_dict(weights, strict=False)
        with torch.no_grad():
            values = network(torch.from_numpy(pixels[section.unmeasured] / np.float32(255)).permute(0, 1, 4, 2, 3))
        parts.append(target.to_genes(values.numpy()))
    predicted = found.predict(PatchStore.of(pixels)[section.unmeasured])
    assert predicted.shape == (20, 4) and predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, np.mean(parts, 0), atol=1e-4)
    assert np.isfinite(found.out_of_fold).all() and found.history["validation_mse"].shape == (2, 4)


def test_spots_that_are_never_held_out_have_no_out_of_fold_value():
    fold = Fold(np.arange(30), np.arange(30, 40))
    found = fit(section_of(expression_of()), noise(), [fold])
    assert np.isnan(found.out_of_fold[:30]).all() and np.isfinite(found.out_of_fold[30:]).all()


@pytest.mark.parametrize("start", ["ridge", "zero"])
def test_the_first_head(start):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    features, expression = rng.normal(3, 2, (60, 12)).astype(np.float32), expression_of(60)
    fold = Fold(np.arange(50), np.arange(50, 60))
    target = make_targets(expression, fold.train)
    network = first_network(TinyEncoder(), [], features, target, fold, Finetuning(start=start))
    outputs = (torch.from_numpy(features) - network.centre) * network.inverse_scale @ network.weight + network.bias
    if start == "zero":
        assert not outputs.detach().any()
        return
    z = (features - features[:50].mean(0)) / features[:50].std(0)
    wanted = [Ridge(12 * p).fit(z[:50], target.values[:50]).predict(z) for p in 10.0 ** np.arange(-2, 4.5, 0.5)]
    assert min(np.abs(outputs.detach().numpy() - w).max() for w in wanted) < 1e-4


# what must not matter


def same(a, b):
    return all(torch.equal(x[name], y[name]) for x, y in zip(a.weights, b.weights, strict=True) for name in x)


def test_same_seed_same_weights_and_another_seed_others(fitted):
    section, pixels, found = fitted
    state = torch.get_rng_state()
    again = fit(section, pixels, max_epochs=4)
    assert same(found, again) and torch.equal(state, torch.get_rng_state())
    assert not same(found, fit(section, pixels, seed=1, max_epochs=4))


def test_held_out_and_unmeasured_spots_never_influence(fitted):
    """At a fixed epoch: rubbish in held-out expression, and in patches of unmeasured sites, leaves the weights as they are."""
    section, pixels, _ = fitted
    folds = [Fold(np.arange(30), np.arange(30, 40))]
    before = fit(section, pixels, folds, early_stopping=False)
    expression, changed = section.expression.copy(), pixels.copy()
    expression[30:] = 99.0
    changed[section.unmeasured] = 255 - changed[section.unmeasured]
    after = fit(section_of(expression, section.measured, 60), changed, folds, early_stopping=False)
    assert same(before, after)
    expression[29] += 1.0  # a training spot does
    assert not same(before, fit(section_of(expression, section.measured, 60), pixels, folds, early_stopping=False))


def test_the_given_encoder_is_left_as_it_is(fitted):
    section, pixels, found = fitted
    encoder = TinyEncoder(norm=True).train()
    encoder.last.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tuned = fit(section, pixels, encoder=encoder)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training and not encoder.last.weight.requires_grad and encoder.last.bias.requires_grad
    assert not torch.equal(tuned.weights[0]["encoder.last.weight"], before["last.weight"])


def test_patches_from_a_file_give_the_same_weights(fitted, monkeypatch):
    section, pixels, found = fitted
    monkeypatch.setattr(patches_module, "free_memory", lambda: 0)
    mapped = allocate(*pixels.shape[:3])
    mapped[:] = pixels
    assert isinstance(mapped, np.memmap) and same(found, fit(section, mapped, max_epochs=4))


# which parameters are trained


def test_every_parameter_that_matters_is_trained_and_no_other(fitted, caplog):
    section, pixels, found = fitted
    start = TinyEncoder().state_dict()
    changed = {name.removeprefix("encoder.") for name in found.weights[0] if name.startswith("encoder.")}
    assert changed == {name for name in start if not name.startswith("unused")}
    for name in changed:
        assert not torch.equal(found.weights[0][f"encoder.{name}"], start[name]), name
    with caplog.at_level(logging.INFO, "snrmix"):
        fit(section, pixels, part="last")
    sizes = [sum(start[name].numel() for name in changed if keep(name)) for keep in (is_last, bool)]
    total = sum(value.numel() for value in start.values())
    assert f"fine-tuning {sizes[0]:,} of {total:,} parameters of the encoder" in caplog.text


def is_last(name):
    return name.startswith(("blocks.1", "last"))


def test_last_changes_the_last_block_and_what_follows(fitted):
    section, pixels, _ = fitted
    found = fit(section, pixels, part="last")
    changed = {name.removeprefix("encoder.") for name in found.weights[0] if name.startswith("encoder.")}
    assert changed == {"blocks.1.0.weight", "blocks.1.0.bias", "last.weight", "last.bias"}
    start = TinyEncoder().state_dict()
    assert not torch.equal(found.weights[0]["encoder.blocks.1.0.weight"], start["blocks.1.0.weight"])
    untouched = found.encoder.state_dict()  # predictions use the rest as it came
    assert all(torch.equal(value, start[name]) for name, value in untouched.items())


def test_the_last_block_of_familiar_shapes():
    def layer(n=1):
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(n)))

    class Residual(nn.Module):  # stages of several blocks, and a projection of two layers after them
        def __init__(self):
            super().__init__()
            self.stem, self.layer1, self.layer2 = nn.Conv2d(3, 4, 1), layer(5), layer(2)
            self.projection = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    model = Residual()
    assert last_block(model) is model.layer2[1]
    wrapped = nn.Sequential(nn.Conv2d(3, 3, 1), model)
    assert last_block(wrapped) is model.layer2[1]
    transformer = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 3, enable_nested_tensor=False
    )
    assert last_block(transformer) is transformer.layers[2]
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
    assert last_block(plain) is plain[2]


def test_batch_norms_keep_their_statistics(fitted):
    section, pixels, _ = fitted
    encoder = TinyEncoder(norm=True)
    module = tuner(encoder=encoder)
    module.train()
    before = module.network.encoder.blocks[0][1].running_mean.clone()
    module.training_step(0)
    assert torch.equal(module.network.encoder.blocks[0][1].running_mean, before)
    module.judge(0, torch.arange(4))
    assert not any(m.training for m in module.modules() if isinstance(m, nn.BatchNorm2d)) and module.network.training
    found = fit(section, pixels, encoder=encoder)
    assert "encoder.blocks.0.1.weight" in found.weights[0]  # scale and shift are trained


@pytest.mark.parametrize("losses", [Losses(), ALL_PLAIN])
def test_checkpointing_gives_the_same_loss_and_gradients(losses):
    gradients, values = [], []
    for checkpointing in (False, True):
        module = tuner(checkpointing=checkpointing, losses=losses)
        loss = module.training_step(0)
        loss.backward()
        values.append(loss.item())
        gradients.append({n: p.grad for n, p in module.network.named_parameters() if p.grad is not None})
    assert values[0] == pytest.approx(values[1], rel=1e-6) and set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_checkpointing_keeps_less(fitted):
    """Of the blocks, only what goes in is saved for the backward pass."""

    def saved(encoder):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            encoder(torch.rand(4, 3, SIZE, SIZE, requires_grad=True))
        return sum(sizes)

    wrapped = TinyEncoder()
    checkpoint_blocks(wrapped)
    assert saved(wrapped) < 0.7 * saved(TinyEncoder())


def test_the_encoder_alone_is_compiled_and_only_where_asked(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    tuner()
    assert not compiled
    module = tuner(compile=True)
    assert compiled == [module.network.encoder]


def test_models_that_know_checkpointing_are_asked():
    class Timm(TinyEncoder):
        asked = False

        def set_grad_checkpointing(self, enable=True):
            self.asked = enable

    model = Timm()
    checkpoint_blocks(model)
    assert model.asked and "forward" not in vars(model.blocks[0])


# the course of the training


def test_rates_rise_and_end_at_the_least():
    module = tuner(max_epochs=10, warm_up=5, learning_rate=1e-3, head_learning_rate=1e-2, min_learning_rate=1e-5)
    chosen = module.configure_optimizers()
    optimiser, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(module.steps * 10 + 1):
        rates.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    encoder = np.array(rates)[:, 0]
    np.testing.assert_allclose(np.array(rates)[:, -1], 10 * encoder)  # the head follows
    assert encoder.argmax() <= 6 and encoder[0] == pytest.approx(1e-3 / 6) and encoder.max() > 0.85e-3
    assert encoder[-1] == pytest.approx(1e-5) and (np.diff(encoder[6:]) < 0).all()


def test_biases_and_norms_do_not_decay():
    module = tuner(encoder=TinyEncoder(norm=True), weight_decay=0.3)
    groups = module.configure_optimizers()["optimizer"].param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in module.network.named_parameters():
        if parameter.requires_grad and "unused" not in name:
            assert (id(parameter) in decayed) == (parameter.ndim > 1), name


@pytest.mark.parametrize(("memory", "wanted"), [(0.5, [0.5, 1.25, 2.125]), (0.0, [1, 2, 3]), (0.9, [0.5, 1, 1.5])])
def test_the_moving_average_of_the_weights(memory, wanted):
    """From 0 over 1, 2, 3; a long memory begins as the plain mean of what there is, 0, 1, 2, 3."""
    module, found = tuner(weight_average=memory), []
    for value in (1.0, 2.0, 3.0):
        torch.nn.init.constant_(module.network.bias, value)
        module.on_train_batch_end()
        found.append(module.average["bias"][0].item())
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    module.average["bias"] += 5  # it is what is judged
    before = module.judge(0, torch.arange(3))[0]
    module.average["bias"] -= 5
    np.testing.assert_allclose(module.judge(0, torch.arange(3))[0], before - 5, atol=1e-4)


@pytest.mark.parametrize("name", sorted(MIXINGS))
def test_every_strategy_trains(name):
    found = fit(section_of(expression_of()), noise(), [two_folds(40)[0]], mixing=resolve_mixing(name))
    assert np.isfinite(found.history["train_loss"]).all() and found.history["train_loss"].shape == (1, 2)


def test_networks_that_stop_early_leave_gaps_in_the_history():
    rng = np.random.default_rng(0)
    found = fit(
        section_of(expression_of()), noise(), max_epochs=12, patience=1, learning_rate=1e-2, seed=int(rng.integers(9))
    )
    lengths = np.isfinite(found.history["validation_mse"]).sum(1)
    assert lengths.max() == found.history["validation_mse"].shape[1] and (lengths < 12).any()
    assert (found.history["best_epoch"] == np.nanargmin(found.history["validation_mse"], axis=1)).all()


def test_bf16_is_close_to_fp32():
    outputs = []
    for precision in ("fp32", "bf16"):
        module = tuner(precision=precision)
        seen = spy(module)
        module.training_step(0)
        outputs.append(seen["outputs"].detach())
    assert outputs[1].dtype == torch.float32
    gap = (outputs[0] - outputs[1]).abs().max() / outputs[0].std()
    assert 0 < gap < 0.1


# refusals


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"part": "first"}, "part='first' is unknown; choose one of 'all', 'last'"),
        ({"precision": "fp16"}, "precision='fp16' is unknown"),
        ({"start": "random"}, "start='random' is unknown"),
        ({"max_epochs": 0}, "max_epochs=0 must be a whole number from 1 up"),
        ({"batch_size": 1}, "batch_size=1 must be a whole number from 2 up"),
        ({"size": 12.5}, "size=12.5 must be a whole number"),
        ({"learning_rate": 0}, "learning_rate=0 must be positive"),
        ({"clip": -1}, "clip=-1 must be positive"),
        ({"min_learning_rate": 1.0}, "min_learning_rate=1.0 must lie between 0 and learning_rate"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must not be negative"),
        ({"devices": 2}, "devices=2: one device trains all networks"),
        ({"weight_average": 1}, "weight_average=1 must lie between 0 and 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be a share"),
    ],
)
def test_options_out_of_range_are_refused(option, sentence):
    with pytest.raises(ValueError, match=sentence):
        Finetuning(**option)


@pytest.mark.parametrize("encoder", [nn.Flatten(), lambda patches: patches.mean((2, 3))])
def test_encoders_without_parameters_are_refused(encoder):
    with pytest.raises(
        TypeError, match="encoder '(Flatten|function)' has no parameters to fine-tune: use finetune=False"
    ):
        fit(section_of(expression_of()), noise(), encoder=encoder)


def test_encoders_that_no_gradient_reaches_are_refused():
    class Detached(TinyEncoder):
        def forward(self, patches):
            return super().forward(patches).detach()

    with pytest.raises(ValueError, match="Detached cannot be fine-tuned: its features depend on no parameter"):
        fit(section_of(expression_of()), noise(), encoder=Detached())


def test_features_of_wrong_shape_or_not_finite_are_refused():
    class Maps(TinyEncoder):
        def forward(self, patches):
            return self.blocks[0](patches)

    class Broken(TinyEncoder):
        def forward(self, patches):
            return super().forward(patches) / 0

    section = section_of(expression_of())
    with pytest.raises(ValueError, match=r"Maps returned \(2, 8, 8, 8\); expected a tensor \(patches, features\)"):
        fit(section, noise(), encoder=Maps())
    with pytest.raises(ValueError, match="Broken returned values that are not finite"):
        fit(section, noise(), encoder=Broken())


def test_an_encoder_without_repeated_blocks_has_no_last_one():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, patches):
            return self.layer(patches.mean((2, 3)))

    with pytest.raises(
        ValueError, match='Bare has no Sequential or ModuleList.*use finetune=True in place of finetune="last"'
    ):
        fit(section_of(expression_of()), noise(), encoder=Bare(), part="last")


def test_patches_of_other_sites_are_refused():
    with pytest.raises(ValueError, match="patches of 41 sites, but the section has 40"):
        fit(section_of(expression_of()), noise(41))


def test_divergence_is_an_error_that_names_the_rate():
    with pytest.raises(RuntimeError, match="training diverged.*lower learning_rate in snrmix.Finetuning"):
        fit(section_of(expression_of()), noise(), learning_rate=1e30, head_learning_rate=1e30, clip=None, warm_up=0)


def test_pixel_strategies_work_here_and_not_on_features():
    from snrmix.engine.network.crossfit import fit_network
    from snrmix.engine.options import Training

    section = section_of(expression_of())
    with pytest.raises(ValueError, match="CutMix mixes pixels"):
        fit_network(section, two_folds(40), CutMix(), Losses(), Training(), 0)
    assert np.isfinite(fit(section, noise(), mixing=CutMix()).out_of_fold).all()
