"""``snrmix report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from snrmix.cli._command import OUTPUT, Command
from snrmix.cli._session import Session
from snrmix.cli._values import by_library
from snrmix.data.words import names


def report(
    input: str,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], group=OUTPUT)] = None,
    force: Annotated[bool, Parameter(group=OUTPUT, negative="", show_default=False)] = False,
    multiqc: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    sample: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    record: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    genes: Annotated[list[str] | None, Parameter(consume_multiple=True, negative_iterable="")] = None,
    session: Session,
    **options,
):
    """Write a page about a result, for colleagues without Python, or what MultiQC shows of it.

    Parameters
    ----------
    input
        What `snrmix impute` wrote: AnnData (`.h5ad` or `.zarr`), or SpatialData (`.zarr`).
    output
        The page, one file (`.html`) that needs nothing else.
    force
        Replace a page that exists.
    multiqc
        Folder for `SAMPLE_snrmix_mqc.json` and `SAMPLE_snrmix_general_mqc.json`.
    sample
        Name of the sample; by default that of the input without its ending.
    record
        What `snrmix impute --json` or `snrmix cohort` said of it (`.json`): has the warnings.
    genes
        Names of genes whose maps come first; the best genes follow.
    """
    import snrmix
    from snrmix.cli._files import load
    from snrmix.data.figures import figures_of
    from snrmix.data.multiqc import write_multiqc
    from snrmix.data.save import check_target
    from snrmix.data.table import read_table

    if output is None and multiqc is None:
        raise ValueError("nothing to write: name a page with -o report.html, or a folder with --multiqc.")
    if output is not None:
        check_target(output, force, (".html",))
    warnings, key, table_key = read_warnings(record), options.get("key", "snrmix"), options.get("table_key")
    with session.step("read"):
        data = load(input)
        session.scores = figures_of(read_table(data, table_key), key)
    if output is not None:
        options = {"title": sample, "source": Path(input).name, **options}
        with session.step("report"):
            page = snrmix.pl.report(data, output, genes=_named(genes), warnings=warnings, **options)
        session.wrote(page)
    if multiqc is not None:
        for path in write_multiqc(multiqc, sample or Path(input).stem, session.scores, warnings):
            session.wrote(path)


def _named(genes: list[str] | None) -> list[str] | None:
    """Names of genes, which may be separated by commas too."""
    return None if genes is None else [name for words in genes for name in names(words)]


def _image(given: list[str]):
    """`false` for none, a path, or paths by library."""
    return False if given == ["false"] else by_library(given, "--image", ("a.tif", "b.tif"))


def read_warnings(record: Path | None) -> list[str]:
    """Warnings of a run.

    Raises
    ------
    ValueError, OSError
        When its record is not there, or none.
    """
    import json

    if record is None:
        return []
    try:
        return list(json.loads(record.read_text())["warnings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--record {str(record)!r} is not what snrmix impute --json prints.") from error


COMMAND = Command(report, ("pl", "report"), values={"image": _image}, without=("path", "genes", "warnings"))
