"""What a GPU is worth: the same section on the card and on the processors, patches per second, Visium HD, little memory.

    python benchmarks/gpu.py                                  # all jobs, on a machine with a GPU
    python benchmarks/gpu.py --jobs agree --sections st_mob_2 --devices cpu cpu   # anywhere: two runs that must agree

Fine-tuning has programs of its own: `throughput.py` for its speed, `finetuning.py` for what it is worth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pandas as pd
import torch
from sections import SECTIONS, add_options, load, machine, write_table

import snrmix
from snrmix.engine.fit import Settings, fit_section
from snrmix.engine.folds import Fold, finer
from snrmix.engine.kriging.krige import krige_section
from snrmix.engine.losses import Losses
from snrmix.engine.mix import resolve_mixing
from snrmix.engine.network.crossfit import fit_network
from snrmix.engine.options import Training
from snrmix.images.encoder import encode, on_device
from snrmix.images.encoders import resolve_encoder
from snrmix.plan.features import read_features
from snrmix.plan.options import read_options
from snrmix.plan.parts import plan_model, run_of
from snrmix.plan.source import read_source

JOBS = ("calls", "agree", "embed", "large", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, sections=["st_mob_2", "visium_muscle_2dpi"], seeds=[0])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--devices", nargs=2, default=["cuda", "cpu"], help="the two that are compared")
    parser.add_argument(
        "--spots", type=int, default=4000, help="spots of a synthetic section that is compared too; 0: none"
    )
    parser.add_argument(
        "--sites", type=int, nargs="+", default=[16_000, 64_000, 250_000], help="sizes of the job 'large'"
    )
    parser.add_argument("--compile", action="store_true", help="embed with torch.compile too, which takes minutes")
    parser.add_argument("--patches", type=int, default=100_000, help="patches that are embedded")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(large_child(options.child, options.devices[0])))
        return
    for job in options.jobs:
        try:
            table = pd.DataFrame(RUN[job](options))
            print(
                "\n"
                + write_table(
                    table, options.out / f"gpu_{job}", TITLES[job], f"{name_of(options.devices)}.", decimals=3
                )
            )
        except Exception as error:  # noqa: BLE001 (what one job lacks must not take the card from the others)
            print(f"{job}: {type(error).__name__}: {error}", flush=True)


TITLES = {
    "calls": "Whole calls on half of a section: the first device twice, for what only a first call takes, then the other.",
    "agree": "A section on both devices: seconds per stage, and the largest difference relative to the spread of the values.",
    "embed": "Embedding: patches per second, and the share of the rate of a large matrix product.",
    "large": "Large sections: half measured, 500 genes, features given.",
    "memory": "Little memory: what happens where batches do not fit.",
}


def name_of(devices) -> str:
    return f"{machine()}; {os.cpu_count()} processors, {torch.get_num_threads()} threads; torch {torch.__version__}"


def calls(options):
    """Embedding and imputing as a user asks for them; ``mse_ratio`` is out of fold."""
    for name in options.sections:
        for device in (options.devices[0], options.devices[0], options.devices[1]):
            adata, given = load(name, options.data, cache=None)
            snrmix.pp.hold_out(adata, share=0.5, random_state=0)
            how = {"accelerator": "gpu" if device == "cuda" else device, **given}
            embedding, _, first = measured(lambda a=adata, how=how: snrmix.pp.embed_histology(a, **how), device)
            fit = partial(snrmix.tl.impute, adata, measured="measured", genes=options.genes, **how)
            imputing, _, second = measured(fit, device)
            ratio = adata.uns["snrmix"]["scores"]["mse_ratio"]
            row = {"section": SECTIONS[name], "device": device, "embedding, s": embedding, "imputing, s": imputing}
            yield row | {"GiB on the card": max(first, second), "stack": ratio["snrmix"], "network": ratio["network"]}


def agree(options):
    """Every stage of the engine on both devices, from the same features."""
    cases = [(SECTIONS[name], lambda name=name: real_section(name, options)) for name in options.sections]
    if options.spots:
        cases.append((f"synthetic, {options.spots} spots", lambda: made_up_section(options.spots, options.genes)))
    for case, make in cases:
        section, folds = make()
        found = {}
        for number, device in enumerate(options.devices):
            found[number] = run_stages(section, folds, device)
        for stage in found[0]:
            seconds, values, memory = found[0][stage]
            other = found[1][stage]
            row = {
                "section": case,
                "stage": stage,
                f"{options.devices[0]}, s": seconds,
                f"{options.devices[1]} beside it, s": other[0],
                "times as fast": other[0] / seconds,
                "GiB on the card": memory,
                "largest difference / sd": float(np.nanmax(np.abs(values - other[1])) / np.nanstd(other[1])),
                "correlation": float(np.corrcoef(_finite(values, other[1]))[0, 1]),
            }
            print(row, flush=True)
            yield row


def _finite(a, b):
    keep = np.isfinite(a) & np.isfinite(b)
    return a[keep], b[keep]


def run_stages(section, folds, device: str, names=("networks", "kriging", "all")) -> dict:
    """Seconds, values and peak memory of stages."""
    training = Training(progress=False, accelerator="gpu" if device == "cuda" else device)
    mixing, fine = resolve_mixing("snr"), finer(folds, len(section.measured))
    stages = {
        "networks": lambda: _network_values(fit_network(section, folds, mixing, Losses(), training, 0), section),
        "kriging": lambda: krige_section(section, fine, device).predicted,
        "all": lambda: fit_section(section, folds, Settings(mixing, Losses(), training, True, 0, device)).predicted,
    }
    if device == "cuda":
        stages["networks"]()  # libraries are loaded
    return {name: measured(stages[name], device) for name in names}


def _network_values(fitted, section):
    return fitted.predict(section.features[section.unmeasured])


def measured(compute, device: str) -> tuple[float, np.ndarray, float]:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    values = compute()
    seconds = time.perf_counter() - started
    return seconds, values, torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")


def real_section(name: str, options):
    """Arrays of a section of which half is hidden, and its folds."""
    adata, given = load(name, options.data, options.cache)
    snrmix.pp.hold_out(adata, share=0.5, random_state=0, key_added="kept")
    checked = read_options(random_state=0, accelerator="auto")
    source = read_source(adata, measured="kept", genes=options.genes, need_features=True, **given)
    prepared = plan_model(source, checked, range(len(source.sites.libraries)))
    return prepared.section(read_features(source, checked, run_of(source, checked, [prepared]))), prepared.folds


def made_up_section(n: int, genes: int, width: int = 1302):
    """Sites on a square lattice, half measured, genes that features and place tell; and five folds."""
    from snrmix.engine.section import Section
    from snrmix.plan.graph import spatial_neighbours

    rng, side = np.random.default_rng(0), int(np.ceil(np.sqrt(n)))
    positions = np.stack(np.divmod(np.arange(n), side), 1).astype(float)
    smooth = np.stack([np.sin(positions @ rng.normal(0, 6 / side, 2) + rng.uniform(0, 6)) for _ in range(24)], 1)
    features = np.empty((n, width), np.float32)
    mixing = rng.normal(0, 0.3, (24, width)).astype(np.float32)
    for rows in np.array_split(np.arange(n), max(1, n // 20_000)):
        features[rows] = smooth[rows] @ mixing + rng.standard_normal((len(rows), width), dtype=np.float32)
    measured = np.sort(rng.permutation(n)[: n // 2])
    rate = np.exp(smooth[measured] @ rng.normal(0, 0.35, (24, genes)) + rng.normal(0.5, 0.7, genes))
    counts = rng.poisson(rate * rng.gamma(6, 1 / 6, (len(measured), 1)))
    depth = np.maximum(counts.sum(1), 1).astype(float)
    expression = np.log1p(1e4 * counts / depth[:, None]).astype(np.float32)
    site_depth = np.full(n, np.nan)
    site_depth[measured] = depth
    library = np.zeros(n, int)
    colour = np.zeros(width, bool)
    colour[-22:] = True
    section = Section(
        features, colour, positions, library, measured, expression, depth,
        lambda train, k, values=None: spatial_neighbours(
            positions[measured[train]] if values is None else values, library[measured[train]], k
        ),
        site_depth=site_depth,
    )  # fmt: skip
    parts = np.array_split(rng.permutation(len(measured)), 5)
    everything = np.arange(len(measured))
    return section, [Fold(np.setdiff1d(everything, part), np.sort(part)) for part in parts]


def embed(options):
    """The default encoder and a ViT-L/16 of random weights on random patches."""
    device = options.devices[0]
    encoders = [("efficientnet_lite0, 128 px", resolve_encoder("efficientnet_lite0"))]
    try:
        import timm

        torch.manual_seed(0)
        vit = timm.create_model("vit_large_patch16_224", pretrained=False, num_classes=0)
        encoders.append(("ViT-L/16, 224 px", snrmix.Encoder("vit", vit, size=224)))
    except ImportError:
        print("timm is absent: no ViT", flush=True)
    rng = np.random.default_rng(0)
    for name, encoder in encoders:
        crops = rng.integers(256, size=(256, encoder.size, encoder.size, 3), dtype=np.uint8)
        batches = max(1, min(options.patches, 100_000 if encoder.size < 200 else 8_000) // len(crops))
        yield {
            "encoder": name,
            "how": "snrmix, fp32",
            **timed(partial(encode, encoder, crops, device), batches, encoder, device),
        }
        on_card = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float().div(255)
        for precision in ("fp32", "tf32", "bf16"):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                for compiled in (False, True) if options.compile else (False,):
                    how = f"{precision}{', channels last' if memory_format == torch.channels_last else ''}{', compiled' if compiled else ''}"
                    module = encoder.function.to(memory_format=memory_format)
                    run = torch.compile(module) if compiled else module
                    patches = on_card.contiguous(memory_format=memory_format)

                    def step(run=run, patches=patches, precision=precision):
                        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
                        with (
                            torch.inference_mode(),
                            torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"),
                        ):
                            return run(patches)

                    row = {"encoder": name, "how": how, **timed(step, max(1, batches // 8), encoder, device)}
                    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
                    print(row, flush=True)
                    yield row


def timed(step, batches: int, encoder, device: str) -> dict:
    with on_device(encoder.function, device):
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(batches):
            step()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return {"patches/s": 256 * batches / seconds, "patches": 256 * batches}


def large(options):
    """Each size in a process of its own."""
    for n in options.sites:
        command = [sys.executable, __file__, "--child", str(n), "--devices", *options.devices]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        row = (
            json.loads(done.stdout.splitlines()[-1]) if not done.returncode else {"sites": n, "failed": done.returncode}
        )
        print(row, flush=True)
        yield row


def large_child(n: int, device: str) -> dict:
    """A section in words for a table, and its stages as the log gives them."""
    import logging
    import resource

    logger = logging.getLogger("snrmix")
    logger.setLevel("DEBUG")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    section, folds = made_up_section(n, 500, width=322)
    seconds, _, memory = run_stages(section, folds, device, ["all"])["all"]
    found = {"sites": n, "seconds": seconds, "GiB on the card": memory}
    found["GB of the process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return found


def memory(options):
    """A batch that does not fit is halved; two processes share a card; a worker sees the card that it is given."""
    torch.cuda.empty_cache()
    encoder = resolve_encoder("efficientnet_lite0")
    crops = np.random.default_rng(0).integers(256, size=(4096, encoder.size, encoder.size, 3), dtype=np.uint8)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 3 * 2**30 / total))
    with on_device(encoder.function, "cuda"):
        features = encode(encoder, crops, "cuda")
        few = np.concatenate([encode(encoder, part, "cuda") for part in np.array_split(crops, 64)])
    torch.cuda.set_per_process_memory_fraction(1.0)
    difference = float(np.abs(features - few).max() / few.std())
    yield {
        "what": "4,096 patches at once with 3 GiB",
        "outcome": f"features as in batches of 64 (largest difference {difference:.1e} sd)",
    }
    code = "import torch; print(torch.cuda.device_count(), torch.cuda.is_available())"
    seen = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    yield {"what": "CUDA_VISIBLE_DEVICES empty", "outcome": seen.stdout.strip()}


RUN = {"calls": calls, "agree": agree, "embed": embed, "large": large, "memory": memory}

if __name__ == "__main__":
    main()
