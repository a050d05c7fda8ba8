from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from snrmix import _checks
from snrmix._globals import settled
from snrmix._log import kept_warnings, quiet
from snrmix.data.genes import missing_genes
from snrmix.data.results import Result
from snrmix.data.save import check_target, write_text
from snrmix.data.table import dense_block, matrix_of
from snrmix.pl._report_checks import EXPECTED, check, in_words
from snrmix.pl._report_facts import doubts_of, facts_of, look_at, parameters_of, slide_facts
from snrmix.pl._report_maps import MAP_BYTES, Maps, observed_values
from snrmix.pl._report_page import content_of, render
from snrmix.pl._report_repeat import is_prediction, repeat_of
from snrmix.pl._report_scores import modelled_of, said_of
from snrmix.pl._report_slides import read_slides

FEATURED = 9  # genes whose maps are seen without choosing them


@settled()
def report(
    data,
    path,
    *,
    key: str = "snrmix",
    genes=None,
    maps: int | None = None,
    held_out: str | None = None,
    title: str | None = None,
    source: str | None = None,
    warnings: Sequence[str] = (),
    image=True,
    image_key: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> Path:
    """Write a page about a result that needs neither Python nor the network: one file of HTML to send to colleagues.

    It says what went in and what looked doubtful, shows the image and what was read of it, how good the predictions are,
    a table of genes that can be sorted, filtered and searched, and maps of genes over the tissue (measured, imputed, and
    how sure that is) with a slider between two of them; and it has the call that repeats the run. It works by keyboard,
    with a screen reader, on a phone, and printed.

    Parameters
    ----------
    data
        AnnData or SpatialData after `snrmix.tl.impute`, or what `snrmix.SNRMix.predict` returned.
    path
        File to write, ``.html``. One that exists is replaced, when the new one is whole.
    key
        The ``key_added`` of `snrmix.tl.impute`.
    genes
        Name of a gene, or several: the first ones to be shown as maps. The best genes follow.
    maps
        How many genes have maps, those in ``genes`` always; ``None``: as many as fit into a page that can be mailed.
    held_out
        Boolean obs column of spots that were measured and hidden from the run, to compare with. ``None``: that of
        `snrmix.pp.hold_out`, ``"measured_held_out"``, where it is there.
    title
        Of the page; by default names of the slides.
    source
        Name of the file that the data are from, for the call that repeats the run.
    warnings
        What the run warned of, where the result does not have it.
    image
        By default the histology of the object is shown; where it cannot be read, spots are shown alone and the page says
        why. ``False``: spots alone. Or an image of its own, as in `snrmix.tl.impute`.
    image_key, library_key, table_key
        As in `snrmix.tl.impute`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    KeyError
        When there is no such result, gene or column.
    ValueError, TypeError, OSError
        When a gene was left out of the imputation, an image that was given does not fit, or the file cannot be written.

    Examples
    --------
    >>> snrmix.tl.impute(adata)
    >>> snrmix.pl.report(adata, "report.html", genes=["COL1A1", "ERBB2"])
    """
    path = check_target(path, force=True, suffixes=(".html",))
    maps = None if maps is None else _checks.whole_number("maps", maps, 0)
    result = Result.find(data, key, table_key)
    wanted = _find_genes(result, [genes] if isinstance(genes, str) else list(genes if genes is not None else []))
    where = {"table_key": table_key, "library_key": library_key, "image_key": image_key}
    checks = check(data, result, held_out, where)
    with kept_warnings() as notes, quiet():
        slides = read_slides(data, result, checks.hidden, image, where)
        found = look_at(data, result, image, where)
    layer, lost = _observed_layer(result)
    drawn = Maps(result, slides, layer)
    columns = _choose(wanted, modelled_of(result), maps, drawn.bytes_per_gene)
    page = {
        "title": title or ", ".join(slide.name for slide in slides[:3]) + (", ..." if len(slides) > 3 else ""),
        "source": source or "",
        "doubts": doubts_of(result, found, warnings, [*notes, *lost]),
        "slides": slides,
        "facts": facts_of(result, found),
        "slide_facts": slide_facts(result, found),
        "checks": checks,
        "repeat": repeat_of(result, source or "section.h5ad", where),
        **said_of(result),
        **parameters_of(result),
        "content": content_of(result, drawn, checks, columns, min(max(FEATURED, len(wanted)), len(columns))),
    }
    write_text(render(page), path)
    return path


def _find_genes(result: Result, genes: list[str]) -> np.ndarray:
    """Columns of genes, each once.

    Raises
    ------
    KeyError, ValueError
        For genes that are not there, or were left out of the imputation.
    """
    table = result.table
    missing = [gene for gene in genes if gene not in table.var_names]
    if missing:
        raise KeyError(missing_genes(table, missing, len(genes)))
    columns = table.var_names.get_indexer(list(dict.fromkeys(genes)))
    for column in columns:
        if np.isnan(dense_block(matrix_of(table, result.key), np.arange(table.n_obs), [column])).all():
            raise ValueError(
                f"gene {table.var_names[column]!r} was left out of the imputation by genes=; run it again with this gene."
            )
    return columns


def _observed_layer(result: Result) -> tuple[str | None, list[str]]:
    """Where measured values are, ``None`` where they are not there any more, and what to say of that."""
    if is_prediction(result):
        return None, []
    layer = str(result.record["parameters"]["layer"])
    try:
        observed_values(result, np.flatnonzero(result.is_measured)[:1], np.arange(1), layer)
    except EXPECTED as error:
        return None, [f"There are no maps of what was measured: {in_words(error)}"]
    return layer, []


def _choose(wanted: np.ndarray, ranked: np.ndarray, maps: int | None, bytes_per_gene: int) -> np.ndarray:
    """Columns of the genes that get maps: those that are wanted, and the best of the others."""
    others = ranked[~np.isin(ranked, wanted)]
    most = MAP_BYTES // max(bytes_per_gene, 1) if maps is None else maps
    return np.concatenate([wanted, others[: max(0, most - len(wanted))]]).astype(int)
