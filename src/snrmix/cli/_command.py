"""A command: a function of the library, its arguments as options, and a few of the command's own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from snrmix.cli._session import SWITCH, Common, Session, run
from snrmix.cli._source import Argument, class_named_in, read_class, read_function
from snrmix.cli._values import by_library
from snrmix.data.words import literal, read_scales

TYPES = {"str": str, "int": int, "float": float, "bool": bool}
NEVER = ("data", "copy")  # the input, and what -o is for
FUNCTION = re.compile(r"[Oo]ther arguments of `snrmix\.(\w+)\.(\w+)`")
COMMON = Group("Log and threads", sort_key=9)
OUTPUT = Group("Output", sort_key=1)


@dataclass(frozen=True)
class Command:
    """A command.

    Parameters
    ----------
    function
        Called with its own arguments, the `Session`, and the options of the library's function that were given.
    source
        That function, such as ``("tl", "impute")``; ``None``: there is none.
    values
        How to read options whose words are not what their types say.
    without
        Arguments that make no sense on a command line.
    """

    function: Callable
    source: tuple[str, str] | None = None
    values: Mapping[str, Callable] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is typed."""
        return self.function.__name__.replace("_", "-").rstrip("-")


@dataclass(frozen=True)
class Option:
    """An option that stands for an argument of a function, or for a field of one of its arguments."""

    argument: Argument
    group: Group
    of: str = ""  # the argument whose field it is

    @property
    def key(self) -> str:
        """Name of the parameter."""
        return f"{self.of}__{self.argument.name}" if self.of else self.argument.name

    @property
    def flag(self) -> str:
        """As it is typed."""
        return "--" + "".join(f"{part}." for part in [self.of] if part) + self.argument.name.replace("_", "-")

    @property
    def words(self) -> tuple[str, ...]:
        """Where the option can stand alone, for yes: the words that can follow it all the same."""
        if self.argument.kind or not ("`True`" in self.argument.text or isinstance(self.argument.default, bool)):
            return ()
        return "true", "false", "auto", *re.findall(r'`"(\w+)"`', self.argument.text)

    @property
    def type(self):
        """What the words are read as first."""
        argument = self.argument
        if isinstance(argument.default, tuple | list):
            return list[type(argument.default[0])]
        if "Mapping" in argument.kind or argument.name in ("image", "scales"):
            return list[str]
        if argument.nullable and argument.default is not None:
            return str  # may be none
        return TYPES.get(argument.kind, str)

    def read(self, value, values: Mapping[str, Callable]):
        """From what was read first to what the function takes."""
        name = self.argument.name
        if name in values:
            return values[name](value)
        if name == "scales":
            return read_scales(value)
        if name == "image":
            return by_library(value, self.flag, ("a.tif", "b.tif"))
        if "Mapping" in self.argument.kind:
            return by_library(value, self.flag, ("0.5", "0.25"), float)
        if self.type is str and self.argument.kind != "str" and self.argument.default is not None:
            return literal(value)
        return value

    @property
    def parameter(self) -> inspect.Parameter:
        """For the parser."""
        argument, several = self.argument, getattr(self.type, "__origin__", None) is list
        default = f" [default: {_shown(argument.default)}]" if argument.default is not None else ""
        told = Parameter(
            name=self.flag, help=argument.text + default, group=self.group, show_default=False, negative_iterable="",
            consume_multiple=several and (self.type is not list[str] or argument.name == "scales"), required=argument.required,
        )  # fmt: skip
        empty = inspect.Parameter.empty if argument.required else None
        return inspect.Parameter(
            self.key, inspect.Parameter.KEYWORD_ONLY, default=empty, annotation=Annotated[self.type | None, told]
        )


def options_of(command: Command) -> list[Option]:
    """Everything that the function of a command takes, and what its ``**keywords`` may be."""
    if command.source is None:
        return []
    source, title = read_function(*command.source), f"snrmix.{'.'.join(command.source)}"
    left_out, group = {*NEVER, *command.without}, Group(f"Options of {title}", sort_key=2)
    found = _expand(source.arguments.values(), group, left_out)
    known = {option.argument.name for option in found if not option.of} | {o.of for o in found} | left_out
    if other := FUNCTION.search(source.rest):
        more = read_function(*other.groups())
        found += _expand(
            more.arguments.values(), Group(f"Options of snrmix.{'.'.join(other.groups())}", sort_key=3), known
        )
        known |= {option.argument.name for option in found}
        source = more
    if name := class_named_in(source.rest):
        training = [argument for argument in read_class(name).arguments.values() if argument.name not in known]
        found += [Option(argument, Group(f"Training (snrmix.{name})", sort_key=4)) for argument in training]
    return found


def _expand(arguments, group: Group, left_out: set[str]) -> list[Option]:
    """Options of arguments, and of the fields of those that are dataclasses."""
    found = []
    for argument in arguments:
        if argument.name in left_out:
            continue
        name = class_named_in(f"`snrmix.{argument.kind}`")
        if name is None:
            found.append(Option(argument, group))
            continue
        fields = Group(f"{argument.name} (snrmix.{name})", sort_key=5)
        found += [Option(part, fields, of=argument.name) for part in read_class(name).arguments.values()]
    return found


def runnable(command: Command) -> Callable[..., int]:
    """The function that the parser calls, with the signature and docstring that it reads."""
    options = {option.key: option for option in options_of(command)}
    own = [
        parameter
        for parameter in inspect.signature(command.function, eval_str=True).parameters.values()
        if parameter.kind != inspect.Parameter.VAR_KEYWORD and parameter.annotation is not Session
    ]

    def call(*args, **given) -> int:
        common = given.pop("common", None) or Common()
        chosen = {key: given.pop(key, None) for key in options}

        def work(session: Session) -> None:
            command.function(*args, session=session, **given, **_arguments(options, chosen, command.values))

        return run(command.name, common, work)

    common = inspect.Parameter(
        "common", inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[Common | None, Parameter(name="*", group=COMMON)],
    )  # fmt: skip
    parameters = [*own, *(option.parameter for option in options.values()), common]
    call.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.default is not inspect.Parameter.empty))
    call.__signature__ = inspect.Signature(sorted(call.__signature__.parameters.values(), key=lambda p: p.kind))
    call.__name__, call.__doc__ = command.function.__name__, command.function.__doc__
    return call


def _arguments(options: Mapping[str, Option], chosen: Mapping[str, object], values: Mapping[str, Callable]) -> dict:
    """Arguments of the function, from the options that were given."""
    import snrmix

    found: dict = {}
    for key, option in options.items():
        if chosen[key] is None:
            continue
        value = option.read(chosen[key], values)
        if option.of:
            found.setdefault(option.of, {})[option.argument.name] = value
        else:
            found[option.argument.name] = value
    classes = {
        option.of: option.group.name.partition("snrmix.")[2].rstrip(")") for option in options.values() if option.of
    }
    return {
        name: getattr(snrmix, classes[name])(**value) if name in classes else value for name, value in found.items()
    }


def spelled_out(tokens: list[str], options: list[Option]) -> list[str]:
    """Options as the parser knows them: underscores as hyphens, and yes for those that stand alone."""
    words = {option.flag: option.words for option in options if option.words}
    found: list[str] = []
    for number, token in enumerate(tokens):
        name, equals, value = token.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name.startswith("--no-") and f"--{name[5:]}" in words:
            found += [f"--{name[5:]}", "false"]
            continue
        found.append(name + equals + value if name.startswith("--") else token)
        following = tokens[number + 1] if number + 1 < len(tokens) else ""
        if name in words and not equals and following.lower() not in words[name]:
            found.append("true")
    return found


def _shown(value) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Target:
    """Where the result goes.

    Parameters
    ----------
    output
        `.h5ad` (of a SpatialData the table), or `.zarr`. It appears whole or not at all.
    force
        Replace an output that exists.
    compression
        Of `.h5ad`: `gzip`, `lzf` or `none`. Zarr stores are compressed always.
    """

    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None
    force: Annotated[bool, SWITCH] = False
    compression: str = "gzip"
