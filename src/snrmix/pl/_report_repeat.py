"""The call that repeats a result, in Python and on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from collections.abc import Iterator, Mapping

import numpy as np

from snrmix.data.results import Result
from snrmix.engine import mix as strategies
from snrmix.engine.losses import Losses
from snrmix.engine.options import Training

NOT_NAMED = ("array", "list")  # what was given is not in the record
PLAIN = (bool, int, float, str)
SETTLED = ("validation", "fill", "at_depth")  # recorded as they were settled


@dataclasses.dataclass(frozen=True)
class Repeat:
    """How to get the result again.

    Parameters
    ----------
    python, command
        Of Python and of the command line; ``command`` is empty for results that it does not make.
    notes
        What is not in them.
    """

    python: str
    command: str
    notes: tuple[str, ...]


def repeat_of(result: Result, file: str, given: Mapping[str, object]) -> Repeat:
    """The calls of a result.

    Parameters
    ----------
    file
        Name of the file of the section.
    given
        Arguments that the record does not have.
    """
    parameters = {**result.record.get("parameters", {}), **given}
    if is_prediction(result):
        note = "These values were predicted by a stored model: repeat them with that model and this section."
        return Repeat(
            f'model = snrmix.SNRMix.load("model")\npredicted = model.predict(adata, key_added={result.key!r})',
            "",
            (note,),
        )
    arguments, notes = {}, []
    for name, value in parameters.items():
        value = _restored(name, value)
        if value is _NOT_KNOWN:
            notes.append(f"{name} was given as values, which the result does not keep.")
        if value is not _DEFAULT:
            arguments[name] = value
    arguments |= {name: value for name, value in _of_record(result) if name not in given}
    return Repeat(_python(arguments, file), _command(arguments, file, notes), tuple(notes))


def is_prediction(result: Result) -> bool:
    """Whether a model of another section made it (`snrmix.SNRMix.predict`)."""
    return "n_spots_scored" not in result.record


class _Marker:
    """Stands for a value that is not there."""

    def __repr__(self) -> str:
        return "..."


_DEFAULT, _NOT_KNOWN = _Marker(), _Marker()


def _restored(name: str, value):
    """An argument from what the record has of it."""
    from snrmix.tl.impute import impute

    known = {p.name: p.default for p in inspect.signature(impute).parameters.values()}
    if name not in known and name != "training":
        return _DEFAULT
    if isinstance(value, Mapping):
        return _object(name, value)
    value = value.item() if isinstance(value, np.generic) else value
    value = None if isinstance(value, str) and value == "none" and name != "mix" else value
    if value in NOT_NAMED and name in ("measured", "genes"):
        return _NOT_KNOWN
    if name == "layer" and value == "X":
        return _DEFAULT
    if name == "encoder" and (value is None or str(value).startswith("efficientnet_lite0")):  # None with use_rep=
        return _DEFAULT
    return _DEFAULT if _same(value, known.get(name)) else value


def _object(name: str, fields: Mapping):
    """A strategy, losses or options of the training, with what differs from their defaults."""
    title = str(fields["name"])
    if name == "mix" and (known := _known_mixing(fields)):
        return _DEFAULT if known == "snr" else known
    kind = {"training": Training, "losses": Losses}.get(name) or getattr(strategies, title, None)
    if kind is None or not dataclasses.is_dataclass(kind):
        return _NOT_KNOWN
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    given = {key: _plain(value) for key, value in fields.items() if key in defaults}
    changed = {key: value for key, value in given.items() if not _same(value, defaults[key])}
    is_default = not changed and title in ("Losses", "Training")
    return _DEFAULT if is_default else _Call("" if name == "training" else title, changed)


def _known_mixing(fields: Mapping) -> str | None:
    """What a strategy is called, where it has the options that come with a name."""
    given = {key: _plain(value) for key, value in fields.items() if key != "name"}
    for name, make in strategies.MIXINGS.items():
        known = make()
        if type(known).__name__ == fields["name"] and dataclasses.is_dataclass(known):
            own = dataclasses.asdict(known)
            if own.keys() == given.keys() and all(_same(given[key], own[key]) for key in own):
                return name
    return None


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call with some arguments; without a title they are arguments of `snrmix.tl.impute` itself."""

    title: str
    fields: Mapping[str, object]


def _plain(value):
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return None if value == "none" else value


def _same(value, default) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and list(value) == list(default)
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def _of_record(result: Result) -> Iterator[tuple[str, object]]:
    """Arguments that stand elsewhere in the record."""
    image = result.record["image"]
    if "scales" in image and str(image.get("scales_by")) != "pixels":
        yield "scales", [float(scale) for scale in np.atleast_1d(image["scales"])]
    names = {str(one["name"]) for one in image.get("read", {}).values()}
    if len(names) == 1 and "/" in (name := names.pop()):
        yield "image", name.rpartition("/")[2]
    if result.key != "snrmix":
        yield "key_added", result.key


def _python(arguments: Mapping[str, object], file: str) -> str:
    parts = []
    for name, value in arguments.items():
        if isinstance(value, _Call) and not value.title:
            parts += [f"{field}={content!r}" for field, content in value.fields.items()]
        elif isinstance(value, _Call):
            inside = ", ".join(f"{field}={content!r}" for field, content in value.fields.items())
            parts.append(f"{name}=snrmix.{value.title}({inside})")
        else:
            parts.append(f"{name}={value!r}")
    reader = "spatialdata.read_zarr" if file.endswith(".zarr") else "anndata.read_h5ad"
    package = reader.partition(".")[0]
    call = "".join(f"\n    {part}," for part in parts)
    return f"import {package}, snrmix\n\nadata = {reader}({file!r})\nsnrmix.tl.impute(\n    adata,{call}\n)"


def _command(arguments: Mapping[str, object], file: str, notes: list[str]) -> str:
    words = ["snrmix", "impute", file, "-o", "repeated." + file.rpartition(".")[2]]
    for name, value in arguments.items():
        fields = value.fields if isinstance(value, _Call) else {name: value}
        if value is _NOT_KNOWN:
            continue
        prefix = f"{name}." if isinstance(value, _Call) and name == "losses" else ""
        if isinstance(value, _Call) and name == "mix":
            notes.append("On the command line mix= takes a name alone: options of a strategy can be given in Python.")
            continue
        for field, content in fields.items():
            words += [f"--{prefix}{field.replace('_', '-')}", *_words(content)]
    return shlex.join(words)


def _words(value) -> list[str]:
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return [str(value).lower() if isinstance(value, bool) or value is None else str(value)]
