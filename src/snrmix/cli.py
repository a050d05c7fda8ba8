"""The command line: ``snrmix impute`` and ``snrmix demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input ends in one line that says what to do, and exit code 1."""
    options = vars(parser().parse_args(arguments))
    command = options.pop("command")
    try:
        command(**options)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"snrmix: error: {message}", file=sys.stderr)
        return 1
    return 0


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
        ("image", "image file in the pixels of obsm['spatial']"),
        ("image-key", "which of the object's images to use"),
        ("table-key", "table of the SpatialData"),
        ("use-rep", "features in obsm to use instead of an image"),
        ("encoder", "efficientnet_lite0 (default), colour, timm:MODEL, hf-hub:ORG/MODEL, or the path of a checkpoint"),
        ("library-key", "obs column that tells slides apart"),
        ("mix", "mixing strategy: snr, mixup or none"),
        ("fill", "auto, unmeasured or all"),
        ("key-added", "name of the new layer (default: snrmix)"),
        ("accelerator", "auto, cpu or gpu"),
    ):
        impute.add_argument(f"--{name}", help=text)
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
    data = read(Path(input))
    options = {name: value for name, value in options.items() if value is not None}
    if "genes" in options:
        options["genes"] = parse_genes(options["genes"], data, options.get("table_key"))
    snrmix.tl.impute(data, **options)
    if target.suffix == ".zarr":
        data.write_zarr(target) if hasattr(data, "write_zarr") else data.write(target)
    else:
        from snrmix.sites import read_table

        read_table(data, options.get("table_key")).write_h5ad(target)
    print(f"Wrote {target}.")


def read(path: Path):
    """AnnData or SpatialData, by what the path holds."""
    import anndata

    if not path.exists():
        raise FileNotFoundError(f"input {str(path)!r} does not exist.")
    if path.suffix == ".h5ad":
        return anndata.read_h5ad(path)
    if (path / "tables").is_dir() or (path / "shapes").is_dir():
        import spatialdata

        return spatialdata.read_zarr(path)
    if path.is_dir():
        return anndata.read_zarr(path)
    raise ValueError(f"input {str(path)!r} must be an .h5ad file or a .zarr folder.")


def parse_genes(text: str, data, table_key: str | None):
    """A number, a var column, or a list of names."""
    from snrmix.sites import read_table

    if text.isdigit():
        return int(text)
    if text in read_table(data, table_key).var:
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
