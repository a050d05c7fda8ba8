"""Commands that read a section, let one function work on it, and store it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from cyclopts import Parameter

from snrmix.cli._command import OUTPUT, Command, Target
from snrmix.cli._session import Session
from snrmix.cli._source import read_function

WORDS = """{summary}

    Parameters
    ----------
    input
        AnnData (`.h5ad` or `.zarr`), SpatialData (`.zarr`), or a folder of Space Ranger (`outs`).
    bin
        Of a folder of Visium HD: size of the bins in micrometres, 8 by default.
    """


def section_command(name: str, source: tuple[str, str], values: Mapping[str, Callable] | None = None) -> Command:
    """A command that does what a function of `snrmix.pp` does, and stores what it returns, or else the section."""

    def work(
        input: str,
        *,
        target: Annotated[Target | None, Parameter(name="*", group=OUTPUT)] = None,
        bin: int | None = None,
        session: Session,
        **options,
    ):
        import snrmix
        from snrmix.cli._files import load, place, save

        target = target or Target()
        where = place(target, input)
        with session.step("read"):
            data = load(input, bin)
        with session.step(name):
            function = getattr(getattr(snrmix, source[0]), source[1])
            result = function(data, **options)
        with session.step("write"):
            save(data if result is None else result, where, target, options.get("table_key"))
        session.wrote(where)

    work.__name__ = name
    work.__doc__ = WORDS.format(summary=read_function(*source).summary.partition("\n\n")[0])
    return Command(work, source, values or {})
