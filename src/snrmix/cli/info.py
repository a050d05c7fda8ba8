"""``snrmix info``."""

from __future__ import annotations

from snrmix.cli._command import Command
from snrmix.cli._session import Session
from snrmix.data.words import read_genes


def info(input: str, *, bin: int | None = None, session: Session, **options):
    """Say what is in a section, what `snrmix impute` would take of it and need for it, and what looks doubtful.

    Parameters
    ----------
    input
        AnnData (`.h5ad` or `.zarr`), SpatialData (`.zarr`), or a folder of Space Ranger (`outs`).
    bin
        Of a folder of Visium HD: size of the bins in micrometres, 8 by default.
    """
    import snrmix
    from snrmix.cli._files import load
    from snrmix.io._description import plain
    from snrmix.io._parts import any_table

    with session.step("read"):
        data = load(input, bin)
    if "genes" in options:
        options["genes"] = read_genes(options["genes"], any_table(data))  # which may be broken
    with session.step("look"):
        description = snrmix.io.describe(data, **options)
    session.more["description"] = plain(description)
    print(description)


COMMAND = Command(info, ("io", "describe"), values={"genes": str})
