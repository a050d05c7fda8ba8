"""How fast patches are embedded and an encoder is fine-tuned, and how that compares with a plain loop.

Works on arrays alone (noise in place of tissue, random weights): neither data nor downloads are needed.

python benchmarks/throughput.py                                # ViT-L/16 at 224 px on a GPU
python benchmarks/throughput.py --model small --device cpu     # minutes on any machine
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from snrmix.engine.finetune.blocks import checkpoint_blocks
from snrmix.engine.finetune.finetuner import Finetuner
from snrmix.engine.finetune.patch_network import PatchNetwork, encode_scales
from snrmix.engine.folds import Fold
from snrmix.engine.losses import Losses
from snrmix.engine.mix import SNRMixing
from snrmix.engine.network.partners import partner_table
from snrmix.engine.network.targets import make_targets
from snrmix.engine.options import Finetuning
from snrmix.engine.patches import PatchStore, to_float

GENES = 250
MODELS = {  # width, layers, heads, side of a patch in pixels
    "small": (192, 4, 3, 64),
    "vit_base": (768, 12, 12, 224),
    "vit_large": (1024, 24, 16, 224),
}
PAPER_LOSSES = Losses(1.0, 0.5, 0.04, 0.05)


class Block(nn.Module):
    """A layer of a vision transformer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens):
        b, n, width = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(b, n, width)
        tokens = tokens + self.project(attended)
        return tokens + self.mlp(self.norm2(tokens))


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) with patches of 16 px, from RGB in 0..1 to its class token."""

    def __init__(self, width: int, layers: int, heads: int, size: int):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, (size // 16) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, patches):
        tokens = self.embed((patches - 0.5) / 0.5).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.place
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="vit_large")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--spots", type=int, default=256, help="spots of the made-up section")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="spots per step")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed, after 3 that are not")
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's loader")
    parser.add_argument("--compile", action="store_true", help="with torch.compile too, which takes minutes")
    parser.add_argument("--out", type=Path, help="a .csv file for the table")
    options = parser.parse_args()
    device = torch.device(options.device)
    pixels, expression, positions = section(options.spots, MODELS[options.model][3])
    rows, flops = [], {}
    for precision in ("fp32", "bf16"):
        peak = matmul_rate(precision, device)
        for compiled in (False, True) if options.compile else (False,):
            for row, step in measure(pixels, expression, positions, precision, compiled, device, options):
                kind = row["task"], row["batch"]
                flops[kind] = flops[kind] if kind in flops else flops_of(step)
                rows.append({**row, "share of matmul": flops[kind] / row["ms"] * 1e3 / peak})
                print(", ".join(f"{k} {shown(v)}" for k, v in rows[-1].items()), flush=True)
    for batch in options.batch:
        rows.append(plain_loop(pixels, expression, positions, batch, device, options))
        print(", ".join(f"{k} {shown(v)}" for k, v in rows[-1].items()), flush=True)
    write(rows, options)


def section(n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches of noise (n, 1, size, size, 3), expression (n, genes) and positions (n, 2)."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(n, 1, size, size, 3), dtype=np.uint8)
    return pixels, rng.normal(size=(n, GENES)).astype(np.float32), rng.uniform(0, np.sqrt(n), (n, 2))


def new_encoder(options) -> ViT:
    torch.manual_seed(0)
    return ViT(*MODELS[options.model])


def measure(pixels, expression, positions, precision: str, compiled: bool, device, options):
    """Rows for embedding and for fine-tuning steps, with the step; the plainest of each kind comes first."""
    name = f"{precision}{', compiled' if compiled else ''}"
    encoder = new_encoder(options).to(device).eval()
    if compiled:
        encoder.compile()
    read, rows = PatchStore.of(pixels).reader(device), torch.arange(min(64, len(pixels)))

    def embed():
        with torch.no_grad():
            encode_scales(encoder, to_float(read(rows)), precision)

    yield {"task": "embed", "how": name, "batch": len(rows), **timed(embed, len(rows), device, options)}, embed
    for batch in options.batch:
        for checkpointing in (False, True) if device.type == "cuda" else (False,):
            step = tuning_step(
                pixels, expression, positions, batch, precision, compiled, checkpointing, device, options
            )
            how = name + (", checkpointing" if checkpointing else "")
            yield {"task": "fine-tune", "how": how, "batch": batch, **timed(step, batch, device, options)}, step


def tuning_step(pixels, expression, positions, batch, precision, compiled, checkpointing, device, options):
    """One step of `snrmix.engine.finetune.finetuner.Finetuner`, with its optimiser."""
    n, mixing, chosen = len(pixels), SNRMixing(k=30), {"batch_size": batch, "precision": precision, "compile": compiled}
    fold = Fold(np.arange(n), np.arange(n))
    target = make_targets(expression, fold.train)
    table = partner_table([target], [fold], lambda train, k: nearest(positions, k), mixing, 0)
    encoder, width = new_encoder(options), MODELS[options.model][0]
    if checkpointing:
        checkpoint_blocks(encoder)
    scale = np.zeros(width, np.float32), np.ones(width, np.float32)
    head = np.zeros((width, GENES), np.float32), np.zeros(GENES, np.float32)
    network = PatchNetwork(encoder, *scale, *head, precision)
    module = Finetuner(
        network, PatchStore.of(pixels), target, fold, table, mixing, PAPER_LOSSES, Finetuning(**chosen), 0
    ).to(device)
    module.train()
    module.on_fit_start()
    module.on_train_epoch_start()
    optimiser, count = module.configure_optimizers()["optimizer"], iter(range(10**9))

    def step():
        module.training_step(next(count) % module.steps).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def nearest(positions: np.ndarray, k: int) -> np.ndarray:
    return cKDTree(positions).query(positions, k + 1)[1][:, 1:]


class MixedPictures(Dataset):
    """The plain way: files are decoded, turned into floats and mixed on the CPU, spot by spot."""

    def __init__(self, folder: Path, expression: np.ndarray, positions: np.ndarray):
        self.folder, self.expression, self.rng = folder, expression, np.random.default_rng(0)
        self.near = nearest(positions, 30)
        squared = ((expression[:, None] - expression[self.near]) ** 2).sum(2)
        squared = squared - squared.min(1, keepdims=True)
        self.weight = np.exp(-squared / (2 * 0.25**2 * np.median(squared)))
        self.weight /= self.weight.sum(1, keepdims=True)

    def __len__(self):
        return len(self.expression)

    def picture(self, i: int) -> torch.Tensor:
        from PIL import Image

        with Image.open(self.folder / f"{i}.png") as image:
            return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 255

    def __getitem__(self, i):
        j, share = self.rng.choice(self.near[i], p=self.weight[i]), self.rng.random(dtype=np.float32)
        first, second = self.picture(i), self.picture(j)
        y_first, y_second = self.expression[i], self.expression[j]
        mixed, y_mixed = share * first + (1 - share) * second, share * y_first + (1 - share) * y_second
        return mixed, first, second, y_mixed, y_first, y_second, share


def plain_loop(pixels, expression, positions, batch: int, device, options) -> dict:
    """Time of a step of the loop that one would write first: fp32, three passes, files read at every step."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for i, patch in enumerate(pixels[:, 0]):
            Image.fromarray(patch).save(Path(folder) / f"{i}.png")
        data = MixedPictures(Path(folder), expression, positions)
        loader = DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=options.workers)
        model = nn.Sequential(new_encoder(options), nn.Dropout(0.2), nn.Linear(MODELS[options.model][0], GENES)).to(
            device
        )
        optimiser = torch.optim.AdamW(model.parameters(), 3e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-4)
        batches = endless(loader)

        def step():
            mixed, first, second, y_mixed, y_first, y_second, share = (x.to(device) for x in next(batches))
            f_mixed, f_first, f_second = model(mixed), model(first), model(second)
            share = share[:, None]
            loss = (f_mixed - y_mixed).square().mean()
            loss = loss + 0.5 * (f_mixed - (share * f_first + (1 - share) * f_second)).square().mean()
            loss = loss + 0.04 * ((f_first - f_second) - (y_first - y_second)).square().mean()
            a, b = f_mixed - f_mixed.mean(0), y_mixed - y_mixed.mean(0)
            loss = loss - 0.05 * ((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0) + 1e-6)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return {"task": "fine-tune", "how": "plain loop", "batch": batch, **timed(step, batch, device, options)}


def endless(loader):
    while True:
        yield from loader


def timed(step, spots: int, device, options) -> dict:
    """Milliseconds per step (median), spots per second, and peak memory."""
    for _ in range(3):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(options.steps):
        synchronise(device)
        started = time.perf_counter()
        step()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    ms = 1e3 * float(np.median(seconds))
    return {"ms": ms, "spots/s": 1e3 * spots / ms, "GiB": memory(device)}


def flops_of(step) -> int:
    """Floating-point operations of a step that is neither compiled nor computes anything twice."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def synchronise(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device) -> float:
    """Peak in GiB: of the GPU since the last reset, or of the process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def matmul_rate(precision: str, device) -> float:
    """Floating-point operations per second of one large matrix product: what the machine can do at best."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = np.inf
    for _ in range(8):
        synchronise(device)
        started = time.perf_counter()
        a @ a
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def write(rows: list[dict], options) -> None:
    """Print the table, with the time of the plain loop over that of every step, and store it."""
    plain = {row["batch"]: row["ms"] for row in rows if row["how"] == "plain loop"}
    for row in rows:
        row["plain / this"] = plain[row["batch"]] / row["ms"] if row["task"] == "fine-tune" else None
    columns = ["task", "how", "batch", "ms", "spots/s", "GiB", "share of matmul", "plain / this"]
    cells = [columns, ["---"] * len(columns), *([shown(row.get(c)) for c in columns] for row in rows)]
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    print(f"\n{options.model} at {MODELS[options.model][3]} px on {name}, {torch.get_num_threads()} CPU thread(s)\n")
    print("\n".join("| " + " | ".join(row) + " |" for row in cells))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def shown(value) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
