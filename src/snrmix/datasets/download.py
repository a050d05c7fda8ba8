"""Public files: found on this machine, or downloaded once into the user's cache, and checked either way."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from snrmix._log import logger

SITE = "https://raw.githubusercontent.com"
DATA, CACHE = "SNRMIX_DATA", "SNRMIX_CACHE"  # environment variables: a folder that has files, and one to keep them in
BAR = {"total": 1, "unit": "B", "unit_scale": True, "leave": False}  # pooch sets the total
SECONDS = 30  # without a byte, after which a transfer is given up


@dataclass(frozen=True)
class PublicFile:
    """A file of a public repository, as it was at one commit.

    Parameters
    ----------
    place
        Where it lies in the cache, such as ``"her2st/B4.jpg"``.
    address
        What follows the site: owner, repository, commit and path.
    sha256
        Sum of its bytes.
    also
        Other places where a folder of data may have it, such as ``"st_her2_B4.jpg"``.
    """

    place: str
    address: str
    sha256: str
    also: tuple[str, ...] = ()


def fetch(file: PublicFile) -> Path:
    """Path of a public file.

    It is looked for in the folder that ``SNRMIX_DATA`` names, in the cache (the folder that ``SNRMIX_CACHE`` names, else
    ``snrmix`` in the user's cache), and then downloaded into the cache. A file appears there whole and checked, or not at
    all; several processes may ask for it at once.

    Raises
    ------
    OSError
        When it cannot be downloaded, or the cache cannot be written.
    ValueError
        When what came is not the published file.
    """
    return find(file) or _download(file)


def cache_folder() -> Path:
    """Where downloads are kept."""
    import pooch

    return Path(os.environ.get(CACHE) or pooch.os_cache("snrmix")).expanduser()


def find(file: PublicFile) -> Path | None:
    """A copy on this machine with the right sum; others are passed over, and named."""
    places = [cache_folder() / file.place]
    if os.environ.get(DATA):
        root = Path(os.environ[DATA]).expanduser()
        places = [root / file.place, root / "public" / file.place, *(root / name for name in file.also), *places]
    for path in places:
        if path.is_file():
            if _sum_of(path) == file.sha256:
                return path
            logger.warning("%s is not the published file (its sha256 differs), and is passed over.", path)
    return None


def _sum_of(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _download(file: PublicFile) -> Path:
    """Bring a file into the cache by way of a folder of its own there, from which it is moved when it is right."""
    target, url = cache_folder() / file.place, f"{SITE}/{file.address}"
    instead = (
        f"Or get it where there is internet and put it at {target}, or at {file.place} in a folder that the environment "
        f"variable {DATA} names."
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=".")
    except OSError as error:
        raise OSError(
            f"{target.parent}, where downloads are kept, cannot be written ({error.strerror}): name another folder by the "
            f"environment variable {CACHE}. {instead}"
        ) from error
    with folder:
        path = _transfer(url, file, Path(folder.name), instead)
        os.replace(path, target)
    logger.info("%s is downloaded; it is kept in %s.", target.name, target.parent)
    return target


def _transfer(url: str, file: PublicFile, folder: Path, instead: str) -> Path:
    import pooch
    from requests.exceptions import RequestException
    from tqdm.auto import tqdm

    name = Path(file.place).name
    try:
        with _without_words(pooch.get_logger()), tqdm(**BAR, desc=f"downloading {name}") as progress:
            downloader = pooch.HTTPDownloader(progressbar=progress, timeout=SECONDS)
            return Path(pooch.retrieve(url, f"sha256:{file.sha256}", name, folder, downloader=downloader))
    except RequestException as error:
        raise ConnectionError(
            f"{name} could not be downloaded from {url} ({_reason(error)}): try again when it can be reached. {instead}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"what came from {url} is not the published file {name} (its sha256 is not {file.sha256}), and was not kept: "
            f"try again; where it stays so, something between here and there changes it. {instead}"
        ) from error
    except OSError as error:
        raise OSError(
            f"{name} could not be stored in {folder.parent} ({error.strerror}): make room there. {instead}"
        ) from error


@contextlib.contextmanager
def _without_words(other: logging.Logger):
    """Silence a logger that is not in the tree of loggers."""
    level = other.level
    other.setLevel(logging.ERROR)
    try:
        yield
    finally:
        other.setLevel(level)


def _reason(error: Exception) -> str:
    """Why a transfer failed, in a few words."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the site answers {response.status_code} {response.reason}"
    kinds = {
        "Timeout": "no answer in time",
        "ConnectionError": "no connection",
        "ChunkedEncodingError": "it was cut off",
    }
    return next((words for kind, words in kinds.items() if kind in [c.__name__ for c in type(error).mro()]), str(error))
