import numpy as np
import pytest
import torch
from torch import nn

from snrmix.engine.losses import Losses
from snrmix.engine.mix import CellMix, CutMix, Mixup, NoMixing, PuzzleMix, SNRMixing
from snrmix.engine.patches import square_symmetries, turn

SIZE = 16


ALL_PLAIN = Losses(vicinal=1, consistency=0, edge=0, correlation=0)


@pytest.mark.parametrize("mixing", [Mixup(), SNRMixing(k=5)])
@pytest.mark.parametrize("scales", [1, 2])
def test_labels_are_mixed_in_the_proportion_of_the_pixels(mixing, scales, noise, tuner, spy):
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


@pytest.mark.parametrize("mixing", [CutMix(), CellMix(probability=1.0), PuzzleMix()])
@pytest.mark.parametrize("scales", [1, 2])
def test_labels_are_mixed_by_the_area_that_is_pasted(mixing, scales, noise, tuner, spy):
    """Black spots, white partners: the share is the black area, at every scale; Puzzle Mix may show half of each."""
    pixels = noise(scales=scales)
    module = tuner(mixing, pixels=pixels)
    seen = spy(module)
    module.read_pairs = lambda anchors, partners: (
        torch.zeros(len(anchors), scales, 3, SIZE, SIZE),
        torch.ones(len(anchors), scales, 3, SIZE, SIZE),
    )
    module.training_step(0)
    mixed = seen["patches"].chunk(3)[0]
    assert {0.0, 1.0} <= set(mixed.unique().tolist()) <= {0.0, 0.5, 1.0}
    for scale in range(scales):
        black = 1 - mixed[:, scale].mean((1, 2, 3))
        np.testing.assert_allclose(black, seen["share"][0, :, 0], atol=1e-6)


def test_predictions_and_labels_belong_to_the_same_spots(noise, tuner, spy):
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


def test_nothing_is_computed_twice_without_partners(tuner, spy):
    module = tuner(NoMixing())
    seen = spy(module)
    module.training_step(0)
    assert len(seen["patches"]) == module.batch and seen["ends"] is None
    module = tuner(losses=ALL_PLAIN)
    seen = spy(module)
    module.training_step(0)
    assert len(seen["patches"]) == module.batch and seen["ends"] is None


def test_dropout_hits_a_spot_its_partner_and_their_mixture_alike(noise, tuner, spy):
    """Two equal patches then have equal predictions, so that the consistency term is 0."""
    module = tuner(Mixup(), pixels=np.broadcast_to(noise(1), (40, 1, SIZE, SIZE, 3)).copy(), dropout=0.5)
    seen = spy(module)
    module.training_step(0)
    mixed, first, second = seen["outputs"].chunk(3)
    np.testing.assert_allclose(mixed.detach(), first.detach(), atol=1e-5)
    np.testing.assert_allclose(second.detach(), first.detach(), atol=1e-5)
    assert first.std(0).mean() > 0.05  # but not all spots alike


def test_the_eight_symmetries_are_those_of_the_square(noise):
    pixels = torch.from_numpy(noise(1))
    places = square_symmetries(SIZE)
    turned = turn(pixels.expand(8, -1, -1, -1, -1), places)
    image = pixels[0, 0].numpy()
    wanted = [np.rot90(image, q) for q in range(4)] + [np.rot90(image, q)[:, ::-1] for q in range(4)]
    for found, one in zip(turned[:, 0].numpy(), wanted, strict=True):
        np.testing.assert_array_equal(found, one)
    assert len({t.numpy().tobytes() for t in turned}) == 8


def test_both_partners_and_all_scales_are_turned_alike(noise, tuner):
    """Patches that are all the same picture: pairs stay equal, and the mixture of a turned pair is the turned mixture."""
    picture = noise(1)
    module = tuner(Mixup(), pixels=np.broadcast_to(picture, (40, 2, SIZE, SIZE, 3)).copy())
    first, second = module.read_pairs(torch.arange(40), torch.arange(40).flip(0))
    assert torch.equal(first, second) and torch.equal(first[:, 0], first[:, 1])
    kinds = {x.numpy().tobytes() for x in first[:, 0]}
    assert len(kinds) == 8  # every symmetry is drawn
    plain = torch.from_numpy(picture[0, 0]).permute(2, 0, 1).float() / 255
    assert plain.contiguous().numpy().tobytes() in {x.contiguous().numpy().tobytes() for x in first[:, 0]}


def test_a_turned_pair_gives_the_turned_mixture(noise, tuner):
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


def test_without_augmentation_patches_are_as_they_are(noise, tuner):
    pixels = noise()
    first, _ = tuner(augment=False, pixels=pixels).read_pairs(torch.arange(40), torch.arange(40))
    np.testing.assert_allclose(first.permute(0, 1, 3, 4, 2), pixels / 255, atol=1e-6)


def test_batch_norms_keep_their_statistics(fitted, TinyEncoder, fit, tuner):
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
def test_checkpointing_gives_the_same_loss_and_gradients(losses, tuner):
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


def test_the_encoder_alone_is_compiled_and_only_where_asked(monkeypatch, tuner):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    tuner()
    assert not compiled
    module = tuner(compile=True)
    assert compiled == [module.network.encoder]


def test_rates_rise_and_end_at_the_least(tuner):
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


def test_biases_and_norms_do_not_decay(TinyEncoder, tuner):
    module = tuner(encoder=TinyEncoder(norm=True), weight_decay=0.3)
    groups = module.configure_optimizers()["optimizer"].param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in module.network.named_parameters():
        if parameter.requires_grad and "unused" not in name:
            assert (id(parameter) in decayed) == (parameter.ndim > 1), name


@pytest.mark.parametrize(("memory", "wanted"), [(0.5, [0.5, 1.25, 2.125]), (0.0, [1, 2, 3]), (0.9, [0.5, 1, 1.5])])
def test_the_moving_average_of_the_weights(memory, wanted, tuner):
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


def test_bf16_is_close_to_fp32(tuner, spy):
    outputs = []
    for precision in ("fp32", "bf16"):
        module = tuner(precision=precision)
        seen = spy(module)
        module.training_step(0)
        outputs.append(seen["outputs"].detach())
    assert outputs[1].dtype == torch.float32
    gap = (outputs[0] - outputs[1]).abs().max() / outputs[0].std()
    assert 0 < gap < 0.1
