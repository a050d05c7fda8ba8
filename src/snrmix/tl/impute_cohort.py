from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pandas as pd

from snrmix._globals import settled
from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.save import COMPRESSIONS, SUFFIXES, check_target, write_text
from snrmix.engine.options import Finetuning, Training
from snrmix.tl._cohort_page import html_of, table_of
from snrmix.tl._cohort_sheet import Sample, read_sheet
from snrmix.tl._cohort_unit import Unit, done, page_of, run_unit, write_page
from snrmix.tl.impute import impute

OURS = ("data", "copy", "share")  # arguments of impute that a cohort sets itself


@settled()
def impute_cohort(
    samples,
    out,
    *,
    client=None,
    scheduler: str | None = None,
    workers: int | None = None,
    share: bool = False,
    share_by: str | None = None,
    format: str = "h5ad",
    compression: str = "gzip",
    modelled_only: bool = False,
    report=None,
    **options,
) -> pd.DataFrame:
    """Impute many sections on the workers of dask.distributed, each as it would be imputed alone, or several together.

    Results appear as they are finished. A sample that fails is reported with its sentence, and the others go on; one
    that loses its worker is tried again. The same call does what is not done yet: samples whose files (by content),
    parameters and version of snrmix are those of a result that is there are left as they are.

    Parameters
    ----------
    samples
        Path of a sheet (CSV or TSV), or a DataFrame. Columns ``sample`` (a name) and ``path`` (AnnData, SpatialData, or a
        folder of Space Ranger) are needed; ``bin`` (of Visium HD), ``patient`` and every argument of `snrmix.tl.impute`,
        such as ``image``, ``measured`` or ``um_per_px``, can be others. Paths are relative to the sheet.
    out
        Folder for the results; it is made where it is missing.
    client
        ``distributed.Client`` to use.
    scheduler
        Address of a scheduler, such as ``"tcp://node7:8786"``, whose workers see the same files. ``None``: workers on this
        machine, as many as its processors and memory hold.
    workers
        How many, on this machine; by default as many as there are graphics processors (one each), or processors, as long
        as each has the memory that the largest sample will need.
    share
        Put all samples into one model (of the genes that they have in common).
    share_by
        Column of the sheet: samples with the same entry, such as the sections of a patient, share a model.
    format
        ``"h5ad"``, or ``"zarr"``.
    compression
        Of ``.h5ad``: ``"gzip"``, ``"lzf"`` or ``"none"``.
    modelled_only
        Leave out genes that were not modelled.
    report
        Function that writes a page about each result, ``snrmix.pl.report``: ``SAMPLE.report.html``, which ``cohort.html``
        links to. ``None``: no pages.
    **options
        Other arguments of `snrmix.tl.impute`, for all samples; those in the sheet win.

    Returns
    -------
    pandas.DataFrame
        One row per sample: ``status`` (``"done"`` or ``"failed"``), ``error``, figures (see
        `snrmix.data.figures.figures_of`), ``warnings``, ``seconds``, ``memory_gb`` (highest in use) and ``output``. The
        folder has it as ``cohort.csv`` and as a page, ``cohort.html``, beside the results ``SAMPLE.h5ad`` and their
        records ``SAMPLE.json``.

    Raises
    ------
    ValueError, KeyError, TypeError, OSError
        For a sheet that cannot be right, an unknown option, a folder that cannot be written to, or a scheduler that cannot
        be reached. Nothing was done then.

    Examples
    --------
    >>> table = snrmix.tl.impute_cohort("samplesheet.csv", "results", measured="measured")
    >>> table[["status", "pearson_median", "n_reliable"]]
    """
    known = _known_arguments()
    for name in options:
        if name not in known:
            raise TypeError(f"impute_cohort() got an unexpected keyword argument {name!r}.{closest(name, known)}")
    if f".{format}" not in SUFFIXES:
        raise ValueError(f"format={format!r}; choose 'h5ad' or 'zarr'.")
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression={compression!r}; choose one of {', '.join(COMPRESSIONS)}.")
    if isinstance(options.get("image"), str | Path):
        options["image"] = Path(options["image"]).expanduser().absolute()
    labels = {"patient", *([share_by] if share_by else [])}
    rows, out = read_sheet(samples, known, labels - set(known)), _make_folder(out)
    groups = group_samples(rows, share, share_by)
    storing = {"suffix": f".{format}", "compression": compression, "modelled_only": modelled_only, "report": report}
    units = [Unit(tuple(group), out, options, **storing) for group in groups]
    records = _run(units, out, [row.name for row in rows], client, scheduler, workers)
    return _write(records, out, [row.name for row in rows])


def _known_arguments() -> list[str]:
    """What can be said of a sample: arguments of `snrmix.tl.impute`, and options of the training."""
    own = [p.name for p in inspect.signature(impute).parameters.values() if p.kind == inspect.Parameter.KEYWORD_ONLY]
    training = [field.name for kind in (Training, Finetuning) for field in fields(kind)]
    return [name for name in dict.fromkeys([*own, *training]) if name not in OURS]


def _make_folder(out) -> Path:
    out = Path(out).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"output folder {str(out)!r} cannot be made: {error.strerror}.") from error
    for name in ("cohort.csv", "cohort.html"):
        check_target(out / name, force=True, suffixes=(".csv", ".html"))
    return out.resolve()


def group_samples(samples: Sequence[Sample], share: bool, share_by: str | None) -> list[list[Sample]]:
    """Samples that share a model.

    Raises
    ------
    KeyError, ValueError
        When there is no such column, or a sample has no entry in it.
    """
    if share_by is None:
        return [list(samples)] if share else [[sample] for sample in samples]
    groups: dict[str, list[Sample]] = {}
    if not any(share_by in sample.labels for sample in samples):
        raise KeyError(f"share_by={share_by!r} is no column of the sheet, or an empty one.")
    for sample in samples:
        if share_by not in sample.labels:
            raise ValueError(f"sample {sample.name!r} has nothing in column {share_by!r}, by which models are shared.")
        groups.setdefault(sample.labels[share_by], []).append(sample)
    return list(groups.values())


def _run(units: list[Unit], out: Path, order: list[str], client, scheduler, workers) -> list[dict]:
    """Do what is not done; the table is written anew whenever a sample is finished."""
    records: list[dict] = []
    waiting = []
    for unit in units:
        former = done(unit)
        records += _with_pages(unit, former or [])
        waiting += [] if former else [unit]
    if records:
        logger.info("%d samples are done already: %s.", len(records), listing([r["sample"] for r in records]))
    if not waiting:
        return records
    from snrmix.tl._cohort_cluster import connected
    from snrmix.tl._cohort_futures import finished

    with connected(client, scheduler, workers, waiting) as (client, threads):
        for new in finished(client, waiting, run_unit, threads):
            records += new
            for record in new:
                _say(record, len(records), len(order))
            _write(records, out, order)
    return records


def _with_pages(unit: Unit, records: list[dict]) -> list[dict]:
    """Records of results that are there, with pages about them where these are wanted; those that are missing are written."""
    found = []
    for sample, record in zip(unit.samples, records, strict=False):
        if not unit.page(sample).exists():
            write_page(unit, sample)
        record = {name: value for name, value in record.items() if name != "report"}
        found.append({**record, **page_of(unit, sample)})
    return found


def _say(record: dict, number: int, of: int) -> None:
    if record["status"] == "failed":
        logger.warning("%d of %d: %s failed: %s", number, of, record["sample"], record["error"])
        return
    logger.info(
        "%d of %d: %s done in %.0f s, with %.1f GB; out-of-fold MSE %.3f of the mean's.",
        number, of, record["sample"], record["seconds"], record["memory_gb"], record["figures"]["mse_ratio"],
    )  # fmt: skip


def _write(records: list[dict], out: Path, order: list[str]) -> pd.DataFrame:
    """Table and page, in the order of the sheet."""
    table = table_of(sorted(records, key=lambda record: order.index(record["sample"])))
    write_text(table.to_csv(), out / "cohort.csv")
    write_text(html_of(table), out / "cohort.html")
    return table
