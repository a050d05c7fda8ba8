"""``snrmix report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from snrmix.cli._command import OUTPUT, Command
from snrmix.cli._session import Session


def report(
    input: str,
    *,
    multiqc: Annotated[Path, Parameter(group=OUTPUT)],
    sample: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    record: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    key: str = "snrmix",
    table_key: str | None = None,
    session: Session,
):
    """Write what MultiQC shows of a result: scores, reliable genes, share by depth, warnings.

    Parameters
    ----------
    input
        What `snrmix impute` wrote: AnnData (`.h5ad` or `.zarr`), or SpatialData (`.zarr`).
    multiqc
        Folder for `SAMPLE_snrmix_mqc.json` and `SAMPLE_snrmix_general_mqc.json`.
    sample
        Name of the sample; by default that of the input without its ending.
    record
        What `snrmix impute --json` or `snrmix cohort` said of it (`.json`): has the warnings.
    key
        Name of the result.
    table_key
        Table of the SpatialData.
    """
    from snrmix.cli._files import load
    from snrmix.data.figures import figures_of
    from snrmix.data.multiqc import write_multiqc
    from snrmix.data.table import read_table

    warnings = read_warnings(record)
    with session.step("read"):
        session.scores = figures_of(read_table(load(input), table_key), key)
    for path in write_multiqc(multiqc, sample or Path(input).stem, session.scores, warnings):
        session.wrote(path)


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


COMMAND = Command(report)
