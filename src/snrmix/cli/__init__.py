"""The command line: ``snrmix impute section.h5ad -o imputed.h5ad``, and other functions of the library."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

NAMES = ("demo", "info", "impute", "embed", "fill_grid", "hold_out", "evaluate", "benchmark", "cohort", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns
    -------
    int
        0: done; 1: failed, with one sentence on stderr; 2: not understood; 130: interrupted.
    """
    from cyclopts import CycloptsError

    tokens = list(sys.argv[1:] if arguments is None else arguments)
    app, tokens = build(tokens)
    try:
        code = app(tokens, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:  # it has said what is wrong
        return 2
    except KeyboardInterrupt:
        return 130
    return code if isinstance(code, int) else 0


def build(tokens: list[str]):
    """The parser, and the words as it understands them. Only the command that is asked for is read whole."""
    from cyclopts import App

    import snrmix
    from snrmix.cli._command import options_of, runnable, spelled_out

    app = App(
        name="snrmix",
        help="Impute spatial transcriptomics from histology. Each command has its own --help.",
        version=f"snrmix {snrmix.__version__}",
        help_format="markdown",
        suppress_keyboard_interrupt=False,
    )
    known = {name.replace("_", "-"): name for name in NAMES}
    wanted = tokens[0] if tokens and tokens[0] in known else None
    everything = any("completion" in token for token in tokens[:1])
    for name, module in known.items():
        command = importlib.import_module(f"snrmix.cli.{module}").COMMAND
        whole = everything or name == wanted
        app.command(runnable(command) if whole else command.function, name=name)
        if name == wanted:
            tokens = [name, *spelled_out(tokens[1:], options_of(command))]
    app.register_install_completion_command()
    return app, tokens
