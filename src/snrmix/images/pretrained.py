"""Encoders with weights from timm, from the Hugging Face hub, or from a file or folder."""

from __future__ import annotations

from pathlib import Path

import torch

from snrmix._names import closest, in_short
from snrmix._torchvision import mend_torchvision
from snrmix.images.encoder import Encoder
from snrmix.images.modules import Pooled

OLDEST_TIMM = (1, 0, 26)  # from here on, no checkpoint can run code when it is read
OTHER_WAY = "snrmix.Encoder(name, model, size=..., mean=..., std=...)"


def timm_encoder(name: str) -> Encoder:
    """An encoder that timm makes, with the normalisation and the patch size of its weights.

    Parameters
    ----------
    name
        ``"timm:MODEL"``, ``"timm:MODEL@FILE"`` with weights from a file, ``"hf-hub:ORG/MODEL"``,
        ``"hf-hub:ORG/MODEL@REVISION"``, or ``"hf-hub:ORG/MODEL@FOLDER"`` with a copy of that model on this machine.

    Raises
    ------
    ValueError
        When timm is missing or does not know the model, or the weights are gated, out of reach or of another model.
    """
    timm = import_timm(name)
    source, _, model = name.partition(":")
    model, _, weights = model.partition("@")
    path = Path(weights).expanduser()
    if source == "timm":
        if not timm.is_model(model.partition(".")[0]):
            raise ValueError(
                f"encoder {name!r}: timm {timm.__version__} has no model {model!r}.{closest(model, timm.list_models())} "
                "timm.list_models() lists all."
            )
        if weights and not path.is_file():
            raise ValueError(f"encoder {name!r}: there is no file {weights!r} with weights.")
        overlay = {"file": str(path), "custom_load": False} if weights else None
        return _create(timm, name, model, pretrained_cfg_overlay=overlay)
    options = _options_of_the_card(timm, model)
    if weights and path.is_dir():
        return _create(timm, name, f"local-dir:{path}", **options)
    return _create(timm, name, name, **options)


def local_encoder(name: str) -> Encoder:
    """An encoder from a folder that holds a timm model, or from a TorchScript file.

    Raises
    ------
    ValueError
        When the path holds something else, or timm is missing for the former.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"encoder {name!r}: the folder has no config.json beside its weights, as the hub has.")
        return _create(import_timm(name), name, f"local-dir:{path}")
    try:
        return Encoder(name, torch.jit.load(path, map_location="cpu").eval())
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"encoder {name!r} is no TorchScript file. If it holds weights alone, name the model that they belong to: "
            f"encoder='timm:MODEL@{name}'."
        ) from error


def import_timm(name: str):
    """Import timm for the encoder of that name.

    Raises
    ------
    ValueError
        When timm is missing or too old.
    """
    try:
        mend_torchvision()
        import timm
    except ImportError as error:
        raise ValueError(f"encoder {name!r} needs timm: {_install()}") from error
    if tuple(int(part) for part in timm.__version__.split(".")[:3] if part.isdigit()) < OLDEST_TIMM:
        oldest = ".".join(map(str, OLDEST_TIMM))
        raise ValueError(f"encoder {name!r} needs timm {oldest} or newer, not {timm.__version__}: {_install()}")
    return timm


def _install() -> str:
    """How to install timm beside the torch that is there: a plain install may replace it by gigabytes for a GPU."""
    return f'pip install "timm>={".".join(map(str, OLDEST_TIMM))}" "torch=={torch.__version__}", which keeps the torch you have'


def _options_of_the_card(timm, repository: str) -> dict:
    """What the model card passes to `timm.create_model` because ``config.json`` does not state it."""
    swiglu = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    uni2 = {
        "patch_size": 14, "embed_dim": 1536, "depth": 24, "num_heads": 24, "mlp_ratio": 2.66667 * 2,
        "init_values": 1e-5, "no_embed_class": True, "reg_tokens": 8,
    }  # fmt: skip
    cards = {
        "mahmoodlab/uni": {"init_values": 1e-5},
        "mahmoodlab/uni2-h": {**uni2, **swiglu},
        "paige-ai/virchow": swiglu,
        "paige-ai/virchow2": swiglu,
        "bioptimus/h0-mini": swiglu,
    }
    return cards.get(repository.lower(), {})


def _create(timm, name: str, model: str, **options) -> Encoder:
    try:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(model, pretrained=True, num_classes=0, **options)
    except Exception as error:  # timm, the hub and the readers of checkpoints raise all kinds
        raise ValueError(_reason(name, error)) from error
    config = timm.data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ValueError(
            f"encoder {name!r} takes images of {channels} channels, {height} x {width}; it must take RGB, square."
        )
    encoder = Encoder(name, Pooled(network), height, config["mean"], config["std"])
    encoder.function.eval()
    return encoder


def _reason(name: str, error: Exception) -> str:
    """Why an encoder could not be made, and what to do."""
    from huggingface_hub import errors

    repository = name.partition(":")[2].partition("@")[0] if name.startswith("hf-hub:") else "timm"
    copy = f"hf-hub:{repository}@FOLDER" if name.startswith("hf-hub:") else f"{name}@FILE"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the weights of encoder {name!r} are gated: ask for access at https://huggingface.co/{repository}, then "
            f"log in with 'hf auth login' or set HF_TOKEN; or pass the path of a copy: encoder={copy!r}."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"encoder {name!r}: https://huggingface.co/{repository} does not exist, or is hidden from you; check the "
            "name, and log in with 'hf auth login' if the model is private."
        )
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError | TimeoutError):
        return (
            f"encoder {name!r} has to be downloaded, and huggingface.co cannot be reached from here. Download it "
            f"elsewhere, bring it to this machine and pass its path: encoder={copy!r}."
        )
    if isinstance(error, KeyError) and "architecture" in error.args:
        return (
            f"encoder {name!r}: its config.json names no timm model. Load it with the library it was made for, and pass "
            f"{OTHER_WAY}."
        )
    return (
        f"encoder {name!r} could not be loaded: {in_short(error)} If it needs options of its own, make the model with "
        f"them and pass {OTHER_WAY}."
    )
