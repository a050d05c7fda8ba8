"""Run tutorials and store their outputs: ``python tutorials/run.py [NAME ...]``; all without a name.

The real sections are downloaded once, or taken from the folder that ``SNRMIX_DATA`` names.
"""

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

HERE = Path(__file__).parent
COLOURS = 256
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal
WIDEST = 1300  # pixels
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def run(path: Path) -> None:
    """Execute one notebook in an empty folder, and write it back with small pictures and nothing of this machine."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict(KERNEL)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}}).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            if "text" in output:
                output.text = ESCAPES.sub("", output.text)
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = shrink(data["image/png"])
                data.pop("text/plain", None)
    nbformat.write(notebook, path)


def shrink(picture: str) -> str:
    """The same picture, base64, in fewer colours and at most `WIDEST` pixels wide."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars would be stored line by line
    os.environ |= {"PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}  # what other packages say names files of this machine
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    for name in sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.ipynb")):
        print(name, flush=True)
        run((HERE / Path(name).name).with_suffix(".ipynb"))
