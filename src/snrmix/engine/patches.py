"""The patches of all sites, decoded once and held as bytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from snrmix._log import logger
from snrmix._memory import free_memory

MEMORY_SHARE = 0.5  # of the free memory: a larger store goes to a file
DEVICE_SHARE = 0.5  # of the free memory of a GPU: a larger store stays in main memory
DISK_SHARE = 0.9  # of the free space


@dataclass(frozen=True)
class PatchStore:
    """Patches of sites, in memory or in a temporary file.

    ``store[rows]`` is the store of some of its sites; it reads nothing, and shares the pixels.

    Parameters
    ----------
    pixels
        uint8, shape (sites, scales, size, size, 3); an array or a memory map.
    rows
        Which sites, int64, shape (n,).
    """

    pixels: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> PatchStore:
        """The store of all sites of an array.

        Raises
        ------
        ValueError
            For an array that is not uint8 of shape (sites, scales, size, size, 3).
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 5 or pixels.shape[2] != pixels.shape[3] or pixels.shape[4] != 3:
            raise ValueError(
                f"patches have shape {pixels.shape} and dtype {pixels.dtype}; expected uint8, "
                "(sites, scales, size, size, 3)."
            )
        return cls(pixels, np.arange(len(pixels)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows) -> PatchStore:
        return PatchStore(self.pixels, self.rows[rows])

    @property
    def scales(self) -> int:
        """Patches per site."""
        return self.pixels.shape[1]

    @property
    def size(self) -> int:
        """Side of a patch in pixels."""
        return self.pixels.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of the patches of these sites."""
        return len(self.rows) * int(np.prod(self.pixels.shape[1:]))

    def reader(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """What reads patches of sites, by their int64 indices (b,) on any device, to the device as they are.

        On a GPU the patches are sent there once, where they take at most half of its free memory; else batch by batch from
        page-locked memory, beside the computation.
        """
        pixels = torch.from_numpy(self.pixels)
        rows = torch.from_numpy(self.rows)
        if device.type == "cuda" and self.nbytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            kept = pixels[rows].to(device)
            return lambda sites: kept[sites.to(device)]
        if device.type == "cuda":
            return lambda sites: pixels[rows[sites.cpu()]].pin_memory().to(device, non_blocking=True)
        return lambda sites: pixels[rows[sites.cpu()]].to(device)


def allocate(sites: int, scales: int, size: int, folder: str | None = None) -> np.ndarray:
    """Room for patches, uint8, shape (sites, scales, size, size, 3): memory, or a temporary file where that is too small.

    The file has no name and is gone with the array.

    Parameters
    ----------
    folder
        Where a file may be put; ``None``: the folder for temporary files of the system.

    Raises
    ------
    ValueError
        When neither memory nor disk can hold it, or there is no such folder.
    """
    shape = (sites, scales, size, size, 3)
    wanted = int(np.prod(shape, dtype=np.int64))
    memory, folder = free_memory(), folder or tempfile.gettempdir()
    check_folder(folder)
    if wanted <= MEMORY_SHARE * memory:
        return np.empty(shape, np.uint8)
    disk = free_disk(folder)
    if wanted > DISK_SHARE * disk:
        raise ValueError(
            f"patch store larger than memory: {sites} sites x {scales} scales x {size} x {size} px take {_gib(wanted)}, and "
            f"{_gib(memory)} of memory and {_gib(disk)} of disk in {folder!r} are free. Use a smaller size= or a folder= with "
            "more room in snrmix.Finetuning, or fewer scales=."
        )
    logger.info("patches take %s of %s free memory: keeping them in a file in %r.", _gib(wanted), _gib(memory), folder)
    return np.memmap(tempfile.TemporaryFile(dir=folder), np.uint8, mode="w+", shape=shape)


def check_folder(folder: str) -> None:
    """Refuse a folder that is not there.

    Raises
    ------
    ValueError
        For such a folder.
    """
    if not os.path.isdir(folder):
        raise ValueError(f"folder={folder!r} is no folder; create it, or pass another one in snrmix.Finetuning.")


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """Float in 0..1, (b, scales, 3, size, size), channels last in memory, of bytes (b, scales, size, size, 3)."""
    return pixels.permute(0, 1, 4, 2, 3).float().div(255)


def square_symmetries(size: int) -> torch.Tensor:
    """Where the pixels of a turned or flipped square come from: int64, (8, size x size), the identity first."""
    places = torch.arange(size * size).view(size, size)
    turned = [torch.rot90(places, quarter) for quarter in range(4)]
    return torch.stack([p.flatten() for p in (*turned, *(p.flip(1) for p in turned))])


def turn(pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Bytes (b, scales, size, size, 3), each patch with its pixels from ``places``, (b, size x size)."""
    flat = pixels.flatten(2, 3)
    return flat.gather(2, places[:, None, :, None].expand_as(flat)).view_as(pixels)


def free_disk(folder: str) -> int:
    """Bytes that are free where a folder is."""
    return shutil.disk_usage(folder).free


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
