from __future__ import annotations

from anndata import AnnData

from snrmix._checks import key_name
from snrmix._globals import settled
from snrmix._log import logger
from snrmix.data.expression import read_measured
from snrmix.data.sites import read_sites
from snrmix.data.table import read_table
from snrmix.plan.hold_out import Split


@settled()
def hold_out(
    data,
    *,
    kind: str = "random",
    share: float = 0.5,
    library=None,
    n_blocks: int = 16,
    measured=None,
    layer: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = "measured",
    random_state: int = 0,
    copy: bool = False,
):
    """Hold some measured spots out, to impute them and compare with what was observed there.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    kind
        ``"random"``: spots at random, within each library. ``"block"``: compact regions, within each library: blocks of
        equal size, cut along the longer side again and again, at a random angle. ``"library"``: whole libraries.
    share
        Share of the measured spots of each library that is held out; with blocks the nearest that whole blocks allow.
        Not used by ``"library"``.
    library
        Name, or names, of the libraries that ``"library"`` holds out.
    n_blocks
        Blocks per library.
    measured, layer, library_key, table_key
        As in `snrmix.tl.impute`.
    key_added
        Name of the result.
    random_state
        Seed. The order of rows and genes does not matter, and no global random state is touched.
    copy
        Return a modified copy of the table and leave ``data`` alone.

    Returns
    -------
    ``None``, or the modified copy. Sets, for ``key_added="measured"``,

    ``obs["measured"]``
        bool: measured and kept. For ``snrmix.tl.impute(data, measured="measured")``.
    ``obs["measured_held_out"]``
        bool: measured and held out. For ``snrmix.tl.evaluate(data, "measured_held_out")``. Spots that were not measured
        in the first place are in neither.

    Raises
    ------
    ValueError, KeyError, TypeError
        For an unknown kind or library, a share or a number of blocks out of range, or fewer than 20 spots left;
        ``data`` is then unchanged.

    Examples
    --------
    >>> adata = snrmix.datasets.synthetic_tissue()
    >>> snrmix.pp.hold_out(adata, kind="block", share=0.3)
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> snrmix.tl.evaluate(adata, "measured_held_out")
    """
    split = Split(kind, share, library, n_blocks, random_state)
    key_name("key_added", key_added)
    table = read_table(data, table_key)
    names = key_added, f"{key_added}_held_out"
    _check_free(table, names, measured)
    is_measured = read_measured(table, measured, layer)
    sites = read_sites(data, table_key=table_key, library_key=library_key, measured=is_measured, with_images=False)
    held_out = sites.to_rows(split.hide(sites, is_measured[sites.order]))
    table = table.copy() if copy else table
    table.obs[names[0]], table.obs[names[1]] = is_measured & ~held_out, held_out
    logger.info(
        "%d of %d measured spots are held out (obs[%r]); the others are in obs[%r].",
        held_out.sum(), is_measured.sum(), names[1], names[0],
    )  # fmt: skip
    return table if copy else None


def _check_free(table: AnnData, names: tuple[str, str], measured) -> None:
    """Refuse to write over columns that are not of an earlier call, and over the one that says what is measured."""
    kept, held_out = names
    other = f"key_added='{kept}_kept'"
    if isinstance(measured, str) and measured in names:
        raise ValueError(
            f"key_added={kept!r} would overwrite the column that says which spots are measured; choose another, e.g. {other}."
        )
    there = [name for name in names if name in table.obs]
    if len(there) == 1:
        start = f"measured={kept!r}, {other}" if there == [kept] else other
        raise ValueError(
            f"obs[{there[0]!r}] is there already, and not of an earlier call: it would be lost. Pass {start}"
            + (": spots that it leaves out are then not hidden as if they were truth." if there == [kept] else ".")
        )
