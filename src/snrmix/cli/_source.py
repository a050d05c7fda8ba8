"""Arguments of a function and what its docstring says of them, from its source: nothing is imported."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import snrmix

ROOT = Path(snrmix.__file__).parent
REFERENCE = re.compile(r"^(?:As in|See|As for) `snrmix\.(\w+)\.(\w+)`\.?$")
FIELD = re.compile(r"^(?:As in|See) `snrmix\.([A-Z]\w+)`\.?$")
CLASS = re.compile(r"`snrmix\.([A-Z]\w+)`")


@dataclass(frozen=True)
class Argument:
    """An argument of a function, or a field of a class.

    Parameters
    ----------
    kind
        What its annotation says, without ``None``: ``"str"``, ``"int"``, ``"float"``, ``"bool"``, the name of a class,
        or empty.
    default
        Its default value; ``None`` also where that is no literal.
    nullable
        Whether the annotation allows ``None``.
    required
        Whether it has no default.
    text
        What the docstring says, as Markdown.
    """

    name: str
    kind: str
    default: object
    nullable: bool
    required: bool
    text: str


@dataclass(frozen=True)
class Source:
    """A function or class as its source has it; ``rest`` is the docstring's text on ``**keywords``."""

    summary: str
    arguments: dict[str, Argument]
    rest: str = ""


def read_function(room: str, name: str) -> Source:
    """Read a function, such as ``"tl", "impute"``; arguments that refer to those of another one have its text."""
    source = _read_function(room, name)
    return replace(source, arguments={name: _followed(argument) for name, argument in source.arguments.items()})


@cache
def _read_function(room: str, name: str) -> Source:
    tree = _tree(_home(room, name))
    node = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    texts, summary = _texts(ast.get_docstring(node) or "")
    spec = node.args
    pairs = [*zip(reversed(spec.args), _padded(spec.defaults, len(spec.args)), strict=True)][::-1]
    pairs += zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    arguments = {arg.arg: _argument(arg.arg, arg.annotation, value, tree, texts) for arg, value in pairs}
    rest = texts.get(spec.kwarg.arg, "") if spec.kwarg else ""
    return Source(summary, arguments, rest)


@cache
def read_class(name: str) -> Source:
    """Read the fields of a public dataclass, such as ``"Training"``, wherever it lives."""
    tree = _tree(snrmix._LAZY[name].removeprefix("snrmix."))
    node = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    texts, summary = _texts(ast.get_docstring(node) or "")
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    arguments = {part.target.id: _argument(part.target.id, part.annotation, part.value, tree, texts) for part in fields}
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in snrmix._LAZY]
    for base in bases:
        arguments = {**read_class(base).arguments, **arguments}
    return Source(summary, {key: _followed(argument) for key, argument in arguments.items()})


def class_named_in(text: str) -> str | None:
    """The public class that a text names first."""
    found = CLASS.search(text)
    return found[1] if found and found[1] in snrmix._LAZY else None


def _home(room: str, name: str) -> str:
    """The module of a folder, or the module of that name, that defines a function."""
    files = sorted((ROOT / room).rglob("*.py")) or [ROOT / f"{room}.py"]
    found = [file for file in files if f"\ndef {name}(" in file.read_text(encoding="utf-8")]
    return ".".join(found[0].relative_to(ROOT).with_suffix("").parts)


@cache
def _tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _padded(defaults: list, n: int) -> list:
    """Defaults of the last arguments, last first, and ``None`` for those without."""
    return [*reversed(defaults), *[None] * (n - len(defaults))]


def _argument(name: str, annotation, value, tree: ast.Module, texts: dict[str, str]) -> Argument:
    words = ast.unparse(annotation).strip("'").split(" | ") if annotation is not None else []
    kinds = [word for word in words if word not in ("None", "object")]
    return Argument(name, " | ".join(kinds), _value(value, tree), "None" in words, value is None, texts.get(name, ""))


def _value(node, tree: ast.Module):
    """A literal, or what a constant of this module, or of the one it comes from, is set to."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return _constant(node.id, tree) if isinstance(node, ast.Name) else None


def _constant(name: str, tree: ast.Module):
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return _value(node.value, tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return _constant(name, _tree(node.module.removeprefix("snrmix.")))
    return None


def _followed(argument: Argument) -> Argument:
    """An argument with the text that its own refers to."""
    if found := FIELD.match(argument.text):
        known = read_class(found[1]).arguments
    elif found := REFERENCE.match(argument.text):
        known = _read_function(*found.groups()).arguments
    else:
        return argument
    return replace(argument, text=_followed(known[argument.name]).text) if argument.name in known else argument


def _texts(docstring: str) -> tuple[dict[str, str], str]:
    """What a numpy docstring says of each parameter, and the text before its sections."""
    sections = re.split(r"\n\n?([A-Z]\w+)\n-{3,}\n", docstring)
    found: dict[str, str] = {}
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        if title == "Parameters":
            for block in re.split(r"\n(?=\S)", body.strip("\n")):
                names, _, text = block.partition("\n")
                text = _plain(text)
                found |= {name.strip().lstrip("*"): text for name in names.partition(" : ")[0].split(",")}
    return found, _plain(sections[0])


def _plain(text: str) -> str:
    """Paragraphs in one line each; double backticks become single ones."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return "\n\n".join(part for part in paragraphs if part).replace("``", "`")
