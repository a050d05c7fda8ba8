"""The command line: ``snrmix impute`` and ``snrmix demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

MIXINGS = (  # those of snrmix.engine.mix, which takes long to import
    "snr, snr_expression, mixup, mixup_without_hesitation, cmixup, rcmixup, cutmix, cellmix, puzzlemix or none"
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input ends in one line that says what to do, and exit code 1."""
    options = vars(parser().parse_args(arguments))
    command = options.pop("command")
    try:
        command(**options)
    except (ValueError, KeyError, TypeError, OSError) as error:
        print(f"snrmix: error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def one_line(error: Exception) -> str:
    """Its message; a KeyError's without the quotation marks that ``str`` puts around it."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split()) or type(error).__name__


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    import snrmix

    top = argparse.ArgumentParser(prog="snrmix", description="Impute spatial transcriptomics from histology.")
    top.add_argument("--version", action="version", version=f"snrmix {snrmix.__version__}")
    commands = top.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser("demo", help="impute a synthetic section, score it against its truth and draw it")
    demo.set_defaults(command=run_demo)
    demo.add_argument("--out", default="demo", help="folder for the picture and the result (default: demo)")
    demo.add_argument("--random-state", type=int, default=0)

    impute = commands.add_parser("impute", help="impute a section and store it with its new layer")
    impute.set_defaults(command=run_impute)
    impute.add_argument("input", help="AnnData (.h5ad or .zarr) or SpatialData (.zarr)")
    impute.add_argument("-o", "--output", required=True, help=".h5ad (the table), or .zarr; must not exist")
    for name, text in (
        ("measured", "boolean obs column: which spots have trustworthy expression"),
        ("layer", "layer with the expression (default: X)"),
        ("units", "auto, counts or log"),
        ("genes", "number of genes of highest mean, boolean var column, or names separated by commas"),
        ("image-key", "which of the object's images to use"),
        ("table-key", "table of the SpatialData"),
        ("use-rep", "features in obsm to use instead of an image"),
        ("encoder", "efficientnet_lite0 (default), colour, timm:MODEL, hf-hub:ORG/MODEL, or the path of a checkpoint"),
        ("library-key", "obs column that tells slides apart"),
        ("mix", f"mixing strategy: {MIXINGS}; see the documentation"),
        ("fill", "auto, unmeasured or all"),
        ("preset", "settings of the published recipe: paper or authors_code; other options win over them"),
        ("key-added", "name of the new layer (default: snrmix)"),
        ("accelerator", "auto, cpu or gpu"),
    ):
        impute.add_argument(f"--{name}", help=text)
    impute.add_argument(
        "--image",
        action="append",
        metavar="[LIBRARY=]PATH",
        help="image file in the pixels of obsm['spatial']; for several slides once each, --image A=a.tif --image B=b.tif",
    )
    impute.add_argument(
        "--scales", type=float, nargs="+", help="sides of the patches in lattice pitches, e.g. 1.15 2.3"
    )
    words = "train the encoder too, or with 'last' its last block"
    impute.add_argument("--finetune", nargs="?", const=True, choices=["last"], help=words)
    impute.add_argument("--share", action="store_true", default=None, help="one model of all slides, not one of each")
    impute.add_argument("--um-per-px", type=float, help="micrometres per unit of obsm['spatial']")
    for name, text in (
        ("n-folds", "folds of the measured spots (default: 5)"),
        ("max-epochs", "longest training"),
        ("random-state", "seed (default: 0)"),
    ):
        impute.add_argument(f"--{name}", type=int, help=text)
    return top


def run_demo(out: str, random_state: int) -> None:
    """``snrmix demo``."""
    from snrmix.demo import run_demo

    run_demo(out, random_state)


def run_impute(input: str, output: str, **options) -> None:
    """``snrmix impute``."""
    import snrmix

    target = Path(output)
    if target.suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"output {output!r} must end in .h5ad or .zarr.")
    if target.exists():
        raise ValueError(f"output {output!r} exists; choose another name or remove it first.")
    if not target.parent.is_dir():
        raise ValueError(f"the folder of output {output!r} does not exist; make it first, or choose another one.")
    data = read(Path(input))
    options = {name: value for name, value in options.items() if value is not None}
    if "genes" in options:
        options["genes"] = parse_genes(options["genes"], data, options.get("table_key"))
    if "image" in options:
        options["image"] = parse_images(options["image"])
    snrmix.tl.impute(data, **options)
    if target.suffix == ".zarr":
        data.write_zarr(target) if hasattr(data, "write_zarr") else data.write(target)
    else:
        from snrmix.data.table import read_table

        read_table(data, options.get("table_key")).write_h5ad(target)
    print(f"Wrote {target}.")


def read(path: Path):
    """AnnData or SpatialData, by what the path holds."""
    import anndata

    if not path.exists():
        raise FileNotFoundError(f"input {str(path)!r} does not exist.")
    if path.suffix == ".h5ad":
        reader = anndata.read_h5ad
    elif (path / "tables").is_dir() or (path / "shapes").is_dir():
        import spatialdata

        reader = spatialdata.read_zarr
    elif path.is_dir():
        reader = anndata.read_zarr
    else:
        raise ValueError(f"input {str(path)!r} must be an .h5ad file or a .zarr folder.")
    try:
        return reader(path)
    except Exception as error:  # readers raise whatever their formats do
        raise ValueError(f"input {str(path)!r} cannot be read as AnnData or SpatialData: {one_line(error)}") from error


def parse_genes(text: str, data, table_key: str | None):
    """A number, a var column, or a list of names."""
    from snrmix.data.table import read_table

    if text.isdigit():
        return int(text)
    if text in read_table(data, table_key).var:
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_images(given: list[str]):
    """One path, or paths by library from ``LIBRARY=PATH``."""
    if len(given) == 1 and (Path(given[0]).exists() or "=" not in given[0]):
        return given[0]
    images = {}
    for text in given:
        library, equals, path = text.partition("=")
        if not (library and equals and path):
            raise ValueError(f"--image {text!r} does not name its slide; write --image A=a.tif --image B=b.tif.")
        if library in images:
            raise ValueError(f"--image names slide {library!r} twice; give one image for each.")
        images[library] = path
    return images


if __name__ == "__main__":
    sys.exit(main())
