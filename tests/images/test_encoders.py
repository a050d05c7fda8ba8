"""Encoders by name, from timm, from files, and of one's own."""

import json
import sys
import types

import numpy as np
import pytest
import torch

import snrmix
from snrmix.images import encoders
from snrmix.images.colour import stain_texture

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
STAINED = {"mean": (0.7, 0.58, 0.7), "std": (0.21, 0.23, 0.18)}


def embed(adata, encoder):
    """Features of the encoder for every spot at one scale, without the 22 colour statistics, and the record."""
    table = snrmix.pp.embed_histology(adata, encoder=encoder, scales=2.0, copy=True)
    return table.obsm["X_histology"][:, :-22].astype(np.float32), table.uns["X_histology"]


def channel_means(patches):
    return patches.mean((2, 3))


# Encoders of one's own


def test_a_function_sees_normalised_patches(tissue):
    plain, record = embed(tissue, snrmix.Encoder("plain", channel_means, size=24))
    assert record["encoder_size"] == 24 and 0 < plain.min() and plain.max() < 1
    normalised, _ = embed(tissue, snrmix.Encoder("normalised", channel_means, size=24, **IMAGENET))
    np.testing.assert_allclose(normalised, (plain - IMAGENET["mean"]) / IMAGENET["std"], atol=4e-3)


def test_a_normalised_module_can_be_trained():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16, 2))
    encoder = snrmix.Encoder("mine", network, size=4, **IMAGENET)
    assert list(encoder.function.parameters()) == list(network.parameters())
    patches = torch.rand(5, 3, 4, 4)
    mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(encoder.function(patches), network((patches - mean) / std))
    encoder.function(patches).square().sum().backward()
    assert network[1].weight.grad.abs().min() > 0


def test_the_default_encoder_is_a_module_that_can_be_trained():
    function = encoders.resolve_encoder("efficientnet_lite0").function
    function(torch.rand(2, 3, 64, 64)).square().sum().backward()
    silent = [name for name, values in function.named_parameters() if values.grad is None or not values.grad.any()]
    assert {name for name in silent if "_fc" not in name} == set()


def test_a_module_comes_back_as_it_was(tissue):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8), torch.nn.Dropout(0.5), torch.nn.BatchNorm2d(4))
    network = torch.nn.Sequential(network, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network[0][0].eval()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    first, _ = embed(tissue, network)
    second, _ = embed(tissue, network)
    np.testing.assert_array_equal(first, second)
    assert network.training and network[0][1].training and not network[0][0].training
    for name, values in network.state_dict().items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "std=None of encoder 'mine' must be three numbers above 0"),
        ({"mean": 0.5, "std": (1, 1, 1)}, "mean=0.5 of encoder 'mine' must be three numbers, for red"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, r"std=\(1, 0, 1\) of encoder 'mine' must be three numbers above 0"),
        ({"size": 0}, "size=0 of encoder 'mine' must be a positive number of pixels"),
        ({"size": (224, 224)}, r"size=\(224, 224\) of encoder 'mine'"),
    ],
)
def test_options_of_an_encoder_are_checked(options, says):
    with pytest.raises(ValueError, match=says):
        snrmix.Encoder("mine", channel_means, **options)
    with pytest.raises(TypeError, match="function of encoder 'mine' must be callable, not str"):
        snrmix.Encoder("mine", "resnet50")


def fails(patches):
    assert patches.shape[2] == 224, "the model takes 224 px"


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (fails, ValueError, r"'mine' failed on patches of shape \(2, 3, 128, 128\): the model takes 224 px .*size="),
        (lambda patches: patches[:, 0], ValueError, r"returned shape \(2, 128, 128\) for 2 patches; .*pool"),
        (lambda patches: channel_means(patches)[:1], ValueError, r"returned shape \(1, 3\) for 2 patches"),
        (lambda patches: channel_means(patches) / 0, ValueError, "not finite"),
        (lambda patches: None, ValueError, r"returned shape \(\) for 2 patches"),
    ],
    ids=["fails", "not pooled", "too few rows", "not finite", "nothing"],
)
def test_a_function_that_does_not_fit_is_refused(tissue, assert_unchanged, function, error, says):
    before = tissue.copy()
    with pytest.raises(error, match=says):
        snrmix.pp.embed_histology(tissue, encoder=snrmix.Encoder("mine", function))
    assert_unchanged(before, tissue)


# Colour and texture


def stained(haematoxylin, eosin):
    """A section in the colours of two stains, as a patch of RGB in 0..1."""
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    density = haematoxylin[..., None] * vectors[0] + eosin[..., None] * vectors[1]
    return torch.from_numpy(np.exp(-density)).permute(2, 0, 1)[None].float()


def test_texture_tells_the_stains_apart():
    amount = np.repeat([[0.2, 0.6]], 32, axis=1).repeat(64, axis=0)  # left and right half
    values = stain_texture(stained(amount, np.full((64, 64), 0.3))).numpy()[0]
    np.testing.assert_allclose(values[:4], [0.4, 0.3, 0.2, 0], atol=1e-5)
    # one edge of 0.4 among 31, 15 and 7 steps across, none down
    steps = [0.4 / np.sqrt(n) / 2 for n in (31, 15, 7)]
    np.testing.assert_allclose(values[4::2], steps, atol=1e-5)
    np.testing.assert_allclose(values[5::2], 0, atol=1e-5)


def test_texture_does_not_depend_on_how_the_patch_lies():
    rng = np.random.default_rng(0)
    patch = stained(rng.uniform(0, 1, (64, 64)), rng.uniform(0, 1, (64, 64)))
    for turned in (patch.flip(2), patch.flip(3), patch.rot90(1, (2, 3))):
        torch.testing.assert_close(stain_texture(turned), stain_texture(patch), rtol=1e-5, atol=1e-6)


# Names and paths


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("efficientnet", "Did you mean 'efficientnet_lite0'"),
        ("hf_hub:MahmoodLab/uni", "Did you mean 'hf-hub'"),
        ("no/such/folder", "'efficientnet_lite0', 'colour', 'timm:MODEL', 'hf-hub:ORG/MODEL'"),
        ("timm:", "Did you mean 'timm'"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(tissue, name, says):
    with pytest.raises(ValueError, match=f"unknown encoder '{name}'.* no file or folder here.*{says}"):
        embed(tissue, name)


def test_a_torchscript_file_is_an_encoder(tissue, tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    torch.jit.script(network).save(tmp_path / "mine.pt")
    values, record = embed(tissue, tmp_path / "mine.pt")
    assert record["encoder"] == str(tmp_path / "mine.pt")
    np.testing.assert_array_equal(values, embed(tissue, network)[0])


def test_weights_alone_are_no_encoder(tissue, tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="is no TorchScript file.*encoder='timm:MODEL@.*weights.pth'"):
        embed(tissue, str(tmp_path / "weights.pth"))
    with pytest.raises(ValueError, match="the folder has no config.json"):
        embed(tissue, tmp_path)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


# timm, without it


class FakeModel(torch.nn.Module):
    """Channel means, as tokens where asked: one class token, two registers, patch tokens."""

    num_prefix_tokens = 3

    def __init__(self, tokens=False):
        super().__init__()
        self.weight, self.tokens = torch.nn.Parameter(torch.ones(3)), tokens

    def forward(self, patches):
        means = channel_means(patches) * self.weight
        if not self.tokens:
            return means
        register = torch.full_like(means, 1e4)
        return torch.stack([means, register, register, means + 1, means + 2], dim=1)


@pytest.fixture
def fake_timm(monkeypatch):
    """A stand-in for timm that records its calls; set ``error`` to let it fail, ``tokens`` for token models."""
    fake = types.ModuleType("timm")
    fake.__version__, fake.calls, fake.error, fake.tokens = "1.0.31", [], None, False
    fake.input_size = (3, 48, 48)
    fake.layers = types.SimpleNamespace(SwiGLUPacked=object)
    fake.list_models = lambda: ["resnet50", "resnet18", "vit_large_patch16_224"]
    fake.is_model = lambda name: name in fake.list_models()

    def create_model(name, **options):
        fake.calls.append((name, options))
        if fake.error is not None:
            raise fake.error
        torch.rand(1)  # timm initialises the weights that it then replaces
        return FakeModel(fake.tokens).train()

    fake.create_model = create_model
    config = {"mean": IMAGENET["mean"], "std": IMAGENET["std"]}
    fake.data = types.SimpleNamespace(resolve_model_data_config=lambda model: {**config, "input_size": fake.input_size})
    monkeypatch.setitem(sys.modules, "timm", fake)
    return fake


def test_timm_models_bring_normalisation_and_size(tissue, fake_timm):
    state = torch.get_rng_state()
    values, record = embed(tissue, "timm:resnet50.a1_in1k")
    assert torch.equal(torch.get_rng_state(), state)
    assert fake_timm.calls == [
        ("resnet50.a1_in1k", {"pretrained": True, "num_classes": 0, "pretrained_cfg_overlay": None})
    ]
    assert record["encoder"] == "timm:resnet50.a1_in1k" and record["encoder_size"] == 48
    plain, _ = embed(tissue, snrmix.Encoder("plain", channel_means, size=48))
    np.testing.assert_allclose(values, (plain - IMAGENET["mean"]) / IMAGENET["std"], atol=4e-3)


def test_a_timm_model_can_be_trained(fake_timm):
    encoder = encoders.resolve_encoder("timm:resnet50")
    assert not encoder.function.training
    encoder.function(torch.rand(2, 3, 48, 48)).sum().backward()
    (weight,) = encoder.function.parameters()
    assert weight.grad.abs().min() > 0


def test_tokens_are_pooled_without_registers(tissue, fake_timm):
    plain, _ = embed(tissue, "timm:resnet50")
    fake_timm.tokens = True
    values, _ = embed(tissue, "hf-hub:paige-ai/Virchow2")
    np.testing.assert_allclose(values, np.concatenate([plain, plain + 1.5], axis=1), atol=2e-3)


def test_the_hub_gets_what_the_model_card_asks_for(tissue, fake_timm, tmp_path):
    names = ["hf-hub:MahmoodLab/UNI", "hf-hub:bioptimus/H-optimus-0@main", f"hf-hub:MahmoodLab/uni@{tmp_path}"]
    for name in names:
        embed(tissue, name)
    plain = {"pretrained": True, "num_classes": 0}
    assert fake_timm.calls == [
        (names[0], {**plain, "init_values": 1e-5}),
        (names[1], plain),
        (f"local-dir:{tmp_path}", {**plain, "init_values": 1e-5}),
    ]


def test_a_folder_goes_to_timm(tissue, fake_timm, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    _, record = embed(tissue, tmp_path)
    assert fake_timm.calls[0][0] == f"local-dir:{tmp_path}" and record["encoder"] == str(tmp_path)


def test_weights_from_a_file_replace_those_of_timm(tissue, fake_timm, tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ValueError, match="there is no file '.*weights.safetensors' with weights"):
        embed(tissue, f"timm:resnet50@{path}")
    path.touch()
    embed(tissue, f"timm:resnet50@{path}")
    assert fake_timm.calls[0][1]["pretrained_cfg_overlay"] == {"file": str(path), "custom_load": False}


def test_an_unknown_timm_model_is_refused(tissue, fake_timm):
    with pytest.raises(ValueError, match=r"timm 1.0.31 has no model 'resnet5'. Did you mean 'resnet50'.*list_models"):
        embed(tissue, "timm:resnet5")


@pytest.mark.parametrize("size", [(1, 48, 48), (3, 48, 64)])
def test_images_must_be_square_rgb(tissue, fake_timm, size):
    fake_timm.input_size = size
    with pytest.raises(ValueError, match=f"'timm:resnet50' takes images of {size[0]} channels, 48 x {size[2]}"):
        embed(tissue, "timm:resnet50")


def test_timm_must_be_there_and_new(tissue, fake_timm, monkeypatch):
    fake_timm.__version__ = "1.0.9"
    with pytest.raises(
        ValueError, match=r"needs timm 1.0.26 or newer, not 1.0.9: pip install \"timm>=1.0.26\" \"torch=="
    ):
        embed(tissue, "timm:resnet50")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"encoder 'timm:resnet50' needs timm: pip install \"timm>=1.0.26\" \"torch=="):
        embed(tissue, "timm:resnet50")


@pytest.fixture
def hub_error(monkeypatch):
    """Make an error of the Hugging Face hub: its own class where it is installed, a stand-in otherwise."""
    try:
        from huggingface_hub import errors
    except ImportError:
        errors = types.ModuleType("huggingface_hub.errors")
        errors.RepositoryNotFoundError = type("RepositoryNotFoundError", (OSError,), {})
        errors.GatedRepoError = type("GatedRepoError", (errors.RepositoryNotFoundError,), {})
        errors.LocalEntryNotFoundError = type("LocalEntryNotFoundError", (FileNotFoundError,), {})
        hub = types.ModuleType("huggingface_hub")
        hub.errors = errors
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)

    def make(name):
        kind = getattr(errors, name)
        error = kind.__new__(kind, "from the hub")  # what its constructor takes has changed between versions
        error.args = ("from the hub",)
        return error

    return make


UNI = "hf-hub:MahmoodLab/uni"


@pytest.mark.parametrize(
    ("error", "name", "says"),
    [
        ("GatedRepoError", UNI, ["gated", "https://huggingface.co/MahmoodLab/uni", "hf auth login", "HF_TOKEN"]),
        ("GatedRepoError", UNI, ["encoder='hf-hub:MahmoodLab/uni@FOLDER'"]),
        ("RepositoryNotFoundError", UNI, ["https://huggingface.co/MahmoodLab/uni does not exist", "hf auth login"]),
        ("LocalEntryNotFoundError", UNI, ["cannot be reached", "encoder='hf-hub:MahmoodLab/uni@FOLDER'"]),
        ("LocalEntryNotFoundError", "timm:resnet50", ["cannot be reached", "encoder='timm:resnet50@FILE'"]),
        (ConnectionError("offline"), "timm:resnet50", ["cannot be reached", "encoder='timm:resnet50@FILE'"]),
        (KeyError("architecture"), UNI, ["config.json names no timm model", "snrmix.Encoder(name, model, size="]),
        (RuntimeError("Unexpected\n key ls1.gamma"), UNI, ["be loaded: Unexpected key ls1.gamma", "snrmix.Encoder("]),
        (OSError("disk full"), UNI, ["could not be loaded: disk full"]),
    ],
)
def test_a_model_that_cannot_be_loaded_is_explained(tissue, assert_unchanged, fake_timm, hub_error, error, name, says):
    fake_timm.error = hub_error(error) if isinstance(error, str) else error
    before = tissue.copy()
    with pytest.raises(ValueError, match=f"encoder '{name}'") as caught:
        snrmix.pp.embed_histology(tissue, encoder=name)
    for words in says:
        assert words in str(caught.value)
    assert_unchanged(before, tissue)


# timm itself


@pytest.fixture(scope="module")
def timm():
    """The real one; skips where it is absent."""
    from snrmix.images.pretrained import import_timm

    try:
        return import_timm("timm:test_vit")
    except ValueError as error:
        if "needs timm" not in str(error):
            raise
        pytest.skip('timm is not installed: pip install "snrmix[timm]"')


@pytest.fixture
def store(timm, tmp_path):
    """Store a random timm model as the hub does, with the arguments that ``config.json`` can state."""

    def store(architecture, size, arguments, **others):
        torch.manual_seed(0)
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments, **others).eval()
        config = {
            "architecture": architecture,
            "num_classes": 0,
            "model_args": arguments,
            "pretrained_cfg": {"input_size": [3, size, size], "fixed_input_size": "img_size" in arguments, **STAINED},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        return model, tmp_path

    return store


def by_hand(adata, model, size, mean, std):
    """Features of a model whose patches are normalised here."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return embed(adata, snrmix.Encoder("by hand", lambda patches: model((patches - mean) / std), size=size))[0]


def assert_same_features(values, expected):
    scale = np.abs(expected).max()
    assert expected.std(0).max() > 0.01 * scale  # spots differ
    np.testing.assert_allclose(values, expected, atol=2e-3 * scale)


TINY = {"img_size": 32, "depth": 1, "embed_dim": 12, "num_heads": 2}


@pytest.mark.parametrize(
    ("architecture", "size", "arguments"),
    [("vit_tiny_patch16_224", 32, TINY), ("test_efficientnet", 64, {})],
)
def test_a_folder_holds_a_timm_model(tissue, store, architecture, size, arguments):
    model, folder = store(architecture, size, arguments)
    values, record = embed(tissue, folder)
    assert record["encoder_size"] == size and values.shape == (tissue.n_obs, model.num_features)
    assert_same_features(values, by_hand(tissue, model, size, **STAINED))


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_a_file_holds_the_weights_of_a_timm_model(tissue, timm, store, tmp_path, ending):
    from safetensors.torch import save_file

    model, folder = store("test_vit", 160, {})
    path = folder / "pytorch_model.bin"
    if ending == "safetensors":
        path = folder / "weights.safetensors"
        save_file(model.state_dict(), path)
    values, record = embed(tissue, f"timm:test_vit.r160_in1k@{path}")
    assert record["encoder_size"] == 160
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # of these weights in timm
    assert_same_features(values, by_hand(tissue, model, 160, **half))


def test_a_copy_of_a_pathology_model_needs_its_name(tissue, timm, store):
    arguments = {**TINY, "reg_tokens": 4, "global_pool": ""}
    swiglu = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    model, folder = store("vit_tiny_patch16_224", 32, arguments, **swiglu)

    def pooled(patches):
        tokens = model(patches)
        assert tokens.shape[1:] == (1 + 4 + 4, 12)  # class, registers, patches
        return torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=1)

    values, _ = embed(tissue, f"hf-hub:paige-ai/Virchow2@{folder}")
    assert_same_features(values, by_hand(tissue, pooled, 32, **STAINED))
    with pytest.raises(ValueError, match="could not be loaded: Error.* in loading state_dict"):
        embed(tissue, folder)


def test_a_real_timm_model_can_be_trained(store):
    _, folder = store("vit_tiny_patch16_224", 32, TINY)
    function = encoders.resolve_encoder(folder).function
    function(torch.rand(2, 3, 32, 32)).square().sum().backward()
    assert all(values.grad is not None and values.grad.any() for values in function.parameters())


def test_checkpoints_cannot_run_code(tissue, store, tmp_path):
    _, folder = store("test_vit", 160, {})
    sprung = tmp_path / "sprung"
    torch.save({"norm.weight": Trap(sprung)}, folder / "pytorch_model.bin")
    for encoder in (folder, f"timm:test_vit@{folder}/pytorch_model.bin", folder / "pytorch_model.bin"):
        with pytest.raises(ValueError, match="could not be loaded|is no TorchScript file"):
            embed(tissue, encoder)
    assert not sprung.exists()


def test_real_timm_knows_its_models(tissue, timm):
    with pytest.raises(ValueError, match="has no model 'resnet5'. Did you mean 'resnet50'"):
        embed(tissue, "timm:resnet5")
    with pytest.raises(ValueError, match="could not be loaded: Invalid pretrained tag"):
        embed(tissue, "timm:resnet50.no_such_tag")
    with pytest.raises(ValueError, match="could not be loaded: No pretrained weights exist for test_mambaout"):
        embed(tissue, "timm:test_mambaout")


@pytest.mark.parametrize(
    ("error", "says"), [("GatedRepoError", "are gated"), ("LocalEntryNotFoundError", "cannot be reached")]
)
@pytest.mark.parametrize("name", [UNI, "timm:resnet50"])
def test_real_timm_meets_a_closed_hub(tissue, timm, hub_error, monkeypatch, error, says, name):
    def download(*arguments, **options):
        raise hub_error(error)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    with pytest.raises(ValueError, match=f"'{name}'.*{says}|{says}.*'{name}'"):
        embed(tissue, name)


def test_a_gpu_without_room_for_a_batch_gets_it_in_parts(tissue):
    def small(patches):
        if len(patches) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return channel_means(patches)

    found, _ = embed(tissue, snrmix.Encoder("means", small, size=24))
    expected, _ = embed(tissue, snrmix.Encoder("means", channel_means, size=24))
    np.testing.assert_array_equal(found, expected)
