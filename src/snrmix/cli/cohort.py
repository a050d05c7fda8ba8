"""``snrmix cohort``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from snrmix.cli._command import OUTPUT, Command
from snrmix.cli._session import Session


def cohort(
    sheet: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], group=OUTPUT)],
    report: Annotated[bool, Parameter(group=OUTPUT, negative="", show_default=False)] = False,
    session: Session,
    **options,
):
    """Impute many sections, on this machine or a cluster; what is done already is left as it is.

    Parameters
    ----------
    sheet
        CSV or TSV with columns `sample` and `path`, and any argument of `snrmix impute` as a further one.
    output
        Folder for results, their records, `cohort.csv` and `cohort.html`.
    report
        Write a page about each result too (`SAMPLE.report.html`), which `cohort.html` links to.
    """
    import snrmix

    with session.step("cohort"):
        table = snrmix.tl.impute_cohort(sheet, output, report=snrmix.pl.report if report else None, **options)
    done = table["status"] == "done"
    session.scores = table[done].drop(columns=["status", "error", "report"], errors="ignore").to_dict("index")
    session.files += [*table.loc[done, "output"], str(output / "cohort.csv"), str(output / "cohort.html")]
    if report:
        session.files += [str(output / page) for page in table.loc[done, "report"] if page]
    session.more["failed"] = table.loc[~done, "error"].to_dict()
    if not done.all():
        first = table[~done].iloc[0]
        raise ValueError(
            f"{(~done).sum()} of {len(table)} samples failed ({', '.join(table.index[~done])}), the others are done; the "
            f"first says: {first['error']}"
        )


COMMAND = Command(cohort, ("tl", "impute_cohort"), without=("samples", "out", "client", "report"))
