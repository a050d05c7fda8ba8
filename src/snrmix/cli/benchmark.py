"""``snrmix benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from snrmix.cli._command import OUTPUT, Command
from snrmix.cli._session import Session
from snrmix.cli._values import literal_or_json
from snrmix.data.words import names, read_genes

WITHOUT = ("kriging", "fill", "key_added", "preset", "finetune", "finetuning")  # methods and splits say all that


def benchmark(
    input: str,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], group=OUTPUT)] = None,
    force: Annotated[bool, Parameter(group=OUTPUT, negative="", show_default=False)] = False,
    bin: int | None = None,
    session: Session,
    **options,
):
    """Compare imputation with simpler predictors on measured spots that are hidden from all of them.

    Parameters
    ----------
    input
        AnnData (`.h5ad` or `.zarr`), SpatialData (`.zarr`), or a folder of Space Ranger (`outs`).
    output
        Table of scores by split, method and gene, `.csv` or `.tsv`; by default its summary is printed.
    force
        Replace an output that exists.
    bin
        Of a folder of Visium HD: size of the bins in micrometres, 8 by default.
    """
    import snrmix
    from snrmix.cli._files import check_table_target, load, save_table
    from snrmix.data.table import read_table

    check_table_target(output, force)
    with session.step("read"):
        data = load(input, bin)
    if "genes" in options:
        options["genes"] = read_genes(options["genes"], read_table(data, options.get("table_key")))
    with session.step("benchmark"):
        result = snrmix.tl.benchmark(data, **options)
    session.scores = result.attrs["summary"].reset_index().to_dict("records")
    save_table(result.set_index("split") if output is not None else result.attrs["summary"], output, force, session)


COMMAND = Command(
    benchmark, ("tl", "benchmark"), values={"genes": str, "methods": names, "splits": literal_or_json}, without=WITHOUT
)
