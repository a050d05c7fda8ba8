"""The notebooks of the folder tutorials/ as pages, and a card for each."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}  # where a notebook does not say
WIDEST = 640  # pixels of a picture on a card


def copy_tutorials(origin: Path, folder: Path) -> list[Path]:
    """Copy all notebooks, with their first pictures beside them; returns the copies."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copies = []
    for path in sorted(origin.glob("*.ipynb"), key=number):
        notebook, copy = json.loads(path.read_text()), folder / path.name
        notebook["metadata"].setdefault("language_info", LANGUAGE)
        copy.write_text(json.dumps(notebook))
        copies.append(copy)
        picture = first_picture(notebook)
        if picture is not None:
            shrink(picture, copy.with_suffix(".png"))
    return copies


def number(path: Path) -> tuple[int, str]:
    """What notebooks are sorted by: the number that a name begins with, those without at the end."""
    found = re.match(r"\d+", path.name)
    return (int(found[0]) if found else 1000, path.name)


def cards(notebooks: list[Path]) -> str:
    """A card per notebook in MyST: picture, title, and the first sentence."""
    return "\n".join([":::::{container} cards", *(card(path) for path in notebooks), ":::::", ""])


def card(path: Path) -> str:
    """The card of one notebook."""
    title, sentence = introduction(json.loads(path.read_text()))
    picture = [f"![{title}](tutorials/{path.stem}.png)", ""] if path.with_suffix(".png").exists() else []
    words = [f"**[{title}](tutorials/{path.name})**", "", sentence]
    return "\n".join(["::::{container} card", *picture, *words, "::::"])


def introduction(notebook: dict) -> tuple[str, str]:
    """Title and first sentence of a notebook."""
    text = "".join(notebook["cells"][0]["source"])
    heading, _, rest = text.partition("\n")
    paragraph = " ".join(rest.strip().split("\n\n")[0].split())
    return heading.lstrip("# "), re.split(r"(?<=[.!?]) ", paragraph)[0]


def first_picture(notebook: dict) -> bytes | None:
    """The first PNG among the outputs of a notebook."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode("".join(output["data"]["image/png"]))
    return None


def shrink(picture: bytes, path: Path) -> None:
    """Write a picture at the width of a card."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((WIDEST, 10 * WIDEST))
    image.save(path, optimize=True)
