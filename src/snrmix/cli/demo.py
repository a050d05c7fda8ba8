"""``snrmix demo``."""

from __future__ import annotations

from pathlib import Path

from snrmix.cli._command import Command
from snrmix.cli._session import Session


def demo(*, out: Path = Path("demo"), random_state: int = 0, session: Session):
    """Impute a synthetic section, or the real one of the folder SNRMIX_DATA, score it and draw it.

    Parameters
    ----------
    out
        Folder for the picture and the result.
    random_state
        Seed.
    """
    from snrmix.demo import run_demo

    with session.step("demo"):
        scores = run_demo(out, random_state)
    session.scores = scores.to_dict("index")
    for name in ("snrmix_demo.png", "snrmix_demo.h5ad"):
        session.wrote(out / name)


COMMAND = Command(demo)
