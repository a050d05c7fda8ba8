"""``snrmix evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from snrmix.cli._command import OUTPUT, Command
from snrmix.cli._session import Session
from snrmix.data.words import read_genes


def evaluate(
    input: str,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], group=OUTPUT)] = None,
    force: Annotated[bool, Parameter(group=OUTPUT, negative="", show_default=False)] = False,
    session: Session,
    **options,
):
    """Compare imputed with observed expression at spots that the imputation never saw.

    Parameters
    ----------
    input
        What `snrmix impute` wrote: AnnData (`.h5ad` or `.zarr`), or SpatialData (`.zarr`).
    output
        Table of scores by gene, `.csv` or `.tsv`; by default it is printed.
    force
        Replace an output that exists.
    """
    import snrmix
    from snrmix.cli._files import check_table_target, load, save_table
    from snrmix.data.table import read_table

    check_table_target(output, force)
    with session.step("read"):
        data = load(input)
    if "genes" in options:
        options["genes"] = read_genes(options["genes"], read_table(data, options.get("table_key")))
    with session.step("evaluate"):
        scores = snrmix.tl.evaluate(data, **options)
    session.scores = dict(scores.attrs["overall"])
    save_table(scores, output, force, session)


COMMAND = Command(evaluate, ("tl", "evaluate"), values={"genes": str})
