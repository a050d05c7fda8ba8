from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snrmix._checks import choice, whole_number
from snrmix.data.flags import read_added
from snrmix.data.results import Result
from snrmix.pl._figure import drawing, finish
from snrmix.pl._maps import Row, Style, draw_rows, limits_of
from snrmix.pl._scene import read_scenes
from snrmix.pl._values import Values, Wanted


@drawing
def draws(
    data,
    gene,
    n: int = 3,
    *,
    key: str = "snrmix",
    kind: str = "observed",
    random_state: int = 0,
    library: str | Sequence[str] | None = None,
    image=True,
    size: float = 1.0,
    cmap="viridis",
    vmin=None,
    vmax=None,
    title: str | None = None,
    um_per_px=None,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | None = None,
    ax=None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    save=None,
    dpi: float | None = None,
):
    """Draw the spread of a map: what was imputed, and layers as they might have been observed.

    What all draws share can be trusted, what only some of them show cannot. The draws are those that `snrmix.tl.draws`
    yields first. All maps of a gene share their colours.

    Parameters
    ----------
    {result}
    gene
        A gene, several, or sets of genes, as in `snrmix.pl.compare`.
    n
        How many draws.
    kind, random_state
        As in `snrmix.tl.draws`.
    library, image, size, cmap, vmin, vmax, title, um_per_px, library_key, image_key
        As in `snrmix.pl.compare`; limits are the same for all genes.
    {figure}

    Raises
    ------
    KeyError, ValueError, TypeError
        As `snrmix.pl.compare` and `snrmix.tl.draws` do.

    Examples
    --------
    >>> axes = snrmix.pl.draws(adata, "STROMA_01", n=2)
    """
    from snrmix.tl.draws import KINDS
    from snrmix.tl.draws import draws as draws_of

    n, kind = whole_number("n", n), choice("kind", kind, KINDS)
    values = Values(Result.find(data, key, table_key))
    wanted = values.find(gene)
    where = {"table_key": table_key, "library_key": library_key, "image_key": image_key, "um_per_px": um_per_px}
    scenes = read_scenes(data, library=library, image=image, **where)
    drawn = _drawn(
        values, wanted, draws_of(data, n, key=key, kind=kind, random_state=random_state, table_key=table_key)
    )
    is_spot = ~read_added(values.result.table.obs)
    rows = []
    for scene in scenes:
        for one in wanted:
            maps = {"imputed": values.imputed(one, scene.rows)}
            maps |= {f"draw {i + 1}": each[scene.rows] for i, each in enumerate(drawn[one.name])}
            limits = limits_of(np.concatenate(list(maps.values())), vmin, vmax)
            rows.append(
                Row(
                    scene,
                    values.heading(one, scene.library),
                    one.name,
                    maps,
                    values.sd(one, scene.rows),
                    is_spot[scene.rows],
                    one.label(values.units),
                    limits,
                )
            )
    panels = ["H&E"] * any(scene.backdrop is not None for scene in scenes) + list(rows[0].maps)
    return finish(draw_rows(rows, panels, Style(size, cmap, None), ax, figsize, title), show, save, dpi, ax)


def _drawn(values: Values, wanted: list[Wanted], layers) -> dict[str, list[np.ndarray]]:
    """What is drawn of every gene, from one layer after the other: only one of them is kept in memory."""
    drawn = {one.name: [] for one in wanted}
    for layer in layers:
        for one in wanted:
            drawn[one.name].append(one.of(layer[:, one.columns].astype(float)))
    return drawn
