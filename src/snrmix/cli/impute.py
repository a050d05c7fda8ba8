"""``snrmix impute``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from snrmix.cli._command import OUTPUT, Command, Target
from snrmix.cli._session import Session
from snrmix.data.words import read_genes


def impute(
    input: str,
    *,
    target: Annotated[Target | None, Parameter(name="*", group=OUTPUT)] = None,
    in_place: Annotated[bool, Parameter(group=OUTPUT, negative="", show_default=False)] = False,
    modelled_only: Annotated[bool, Parameter(group=OUTPUT, negative="", show_default=False)] = False,
    bin: int | None = None,
    session: Session,
    **options,
):
    """Impute a section and store it with its new layer.

    Parameters
    ----------
    input
        AnnData (`.h5ad` or `.zarr`), SpatialData (`.zarr`), or a folder of Space Ranger (`outs`).
    in_place
        Store only what is new, in the zarr store that is the input; with `--force` in place of a result of that name.
    modelled_only
        Leave out genes that were not modelled: their layers hold constants.
    bin
        Of a folder of Visium HD: size of the bins in micrometres, 8 by default.
    """
    import snrmix
    from snrmix.cli._files import load, place, save
    from snrmix.data.figures import figures_of
    from snrmix.data.save import keep_modelled, say_size
    from snrmix.data.table import read_table

    target, key, table_key = target or Target(), options.get("key_added", "snrmix"), options.get("table_key")
    where = place(target, input, in_place, key, table_key)
    if in_place and modelled_only:
        raise ValueError("--modelled-only makes another table, and --in-place keeps the one in the store: choose one.")
    with session.step("read"):
        data = load(input, bin)
    if "genes" in options:
        options["genes"] = read_genes(options["genes"], read_table(data, table_key))
    with session.step("impute"):
        snrmix.tl.impute(data, **options)
    session.scores = figures_of(read_table(data, table_key), key)
    with session.step("write"):
        if in_place:
            say_size(data, key, table_key, can_leave_out=False)
            snrmix.io.write_layer(where, data, key=key, table_key=table_key, overwrite=target.force)
        else:
            data = keep_modelled(data, key, table_key) if modelled_only else data
            say_size(data, key, table_key)
            save(data, where, target, table_key)
    session.wrote(where)


COMMAND = Command(impute, ("tl", "impute"), values={"genes": str})
