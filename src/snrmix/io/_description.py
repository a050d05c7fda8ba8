"""What is known of an object, as a dict that prints as text."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Iterator

from snrmix._names import listing

WIDTH, LABEL = 120, 13
MOST_LIBRARIES = 6

LOOKS = {
    "counts": "counts", "rounded": "normalised and rounded", "log": "log-normalised values", "log2": "logs to base 2",
    "log10": "logs to base 10", "square roots": "square roots of counts", "linear": "normalised, but not logged",
    "logged twice": "logged twice", "scaled": "scaled values", "no zeros": "denoised or corrected values",
    "fractions": "counts that are not whole", "unclear": "neither counts nor plain logs", "incomplete": "incomplete",
    "empty": "empty",
}  # fmt: skip


class Description(dict):
    """What `snrmix.io.describe` found out about an object: a dict, which prints as text."""

    def __str__(self) -> str:
        lines = [_head(self["object"])]
        for label, text in _rows(self):
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=label.ljust(LABEL), subsequent_indent=" " * LABEL, break_long_words=False
            )
        for title in ("refused", "doubtful"):
            if self[title]:
                lines += ["", {"refused": "impute would refuse this:", "doubtful": "Doubtful:"}[title]]
                for sentence in self[title]:
                    lines += textwrap.wrap(
                        sentence, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False
                    )
        return "\n".join(lines)

    __repr__ = __str__

    def to_json(self, indent: int | None = None) -> str:
        """The same as JSON; what is not a number, such as micrometres that are unknown, is null."""
        return json.dumps(plain(self), indent=indent)


def plain(value):
    """Values as JSON has them."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _head(found: dict) -> str:
    if "observations" not in found:
        return found["kind"]
    table = f", table {found['table']!r}" if len(found.get("tables", ())) > 1 else ""
    return f"{found['kind']}{table}: {found['observations']:,} observations x {found['variables']:,} variables"


def _rows(found: dict) -> Iterator[tuple[str, str]]:
    """Labels and texts."""
    if "libraries" not in found:
        return
    yield from _slides(found)
    yield from _labelled("Images", map(_image, found["images"]), "none")
    yield from _labelled("Expression", map(_matrix, found["matrices"]), "none")
    if found["genes"]:
        yield "Genes", _genes(found["genes"])
    results = [f"{one['key']!r}, of version {one['version']}" for one in found["results"]]
    if found["embedding"]:
        results.append("embedding of the histology by {encoder!r}, {features:,} features".format(**found["embedding"]))
    yield from _labelled("Results", results, "none yet")
    if found.get("cost"):
        yield "impute", _cost(found["cost"])


def _labelled(label: str, texts: Iterable[str], nothing: str) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(list(texts) or [nothing]):
        yield "" if number else label, text


def _slides(found: dict) -> Iterator[tuple[str, str]]:
    libraries, key = found["libraries"], found["library_key"]
    if not libraries:
        yield "Slides", "cannot be told"
        return
    if len(libraries) > 1:
        yield "Slides", f"{len(libraries):,}, told apart by obs[{key!r}]"
    for number, one in enumerate(libraries[:MOST_LIBRARIES]):
        yield ("Slide" if not number and len(libraries) == 1 else ""), _library(one)
    if len(libraries) > MOST_LIBRARIES:
        yield "", f"... and {listing([one['name'] for one in libraries[MOST_LIBRARIES:]], 5)}"


def _library(one: dict) -> str:
    said = [f"{one['name']!r}: {one['spots']:,} spots"]
    if one.get("measured") == one["spots"]:
        said[0] += ", all measured"
    elif one.get("measured") is not None:
        said[0] += f", {one['measured']:,} measured ({one['measured'] / one['spots']:.0%})"
    if "pitch" in one:
        said += _geometry(one)
    if one.get("image"):
        said.append(f"patches from {_taken(one)}")
    return "; ".join(said)


def _geometry(one: dict) -> Iterator[str]:
    pitch, um = one["pitch"], one["um_per_px"]
    size = f"{pitch:.4g} px" + (f" = {pitch * um:.4g} um" if math.isfinite(um) else "")
    known = {"other": "an array", "none": "no array_row and array_col that fit"}
    yield f"{known.get(one['array'], one['array'] + ' array')}, neighbours {size} apart"
    if not math.isfinite(um):
        yield "um per px unknown"
    if one["gaps"]:
        gaps = "1 gap" if one["gaps"] == 1 else f"{one['gaps']:,} gaps"
        yield f"{gaps} amid the spots, for snrmix.pp.fill_grid to bring back"


def _taken(one: dict) -> str:
    name, um = one["image"]["name"].removesuffix(f" of library {one['name']!r}"), one["image"]["um_per_px"]
    return name + (f" ({um:.3g} um per px)" if math.isfinite(um) else "")


def _image(one: dict) -> str:
    size = f", {one['width']:,} x {one['height']:,} px" if "width" in one else ""
    return f"{one['name']!r}{' of ' + repr(one['library']) if one['library'] else ''}{size}: {one['kind']}, {one['reason']}"


def _matrix(one: dict) -> str:
    name = one["name"] if one["name"] == "X" else f"layer {one['name']!r}"
    return f"{name}: looks like {LOOKS.get(one['looks_like'], one['looks_like'])} ({one['seen']})"


def _genes(genes: dict) -> str:
    others = f"; other names in var[{listing(genes['other_names'])}]" if genes["other_names"] else ""
    return f"{genes['number']:,}, named by {genes['names']} ({listing(genes['examples'])}, ...){others}"


def _cost(cost: dict) -> str:
    models = f"in {cost['models']} models, " if cost["models"] > 1 else ""
    return (
        f"would model {cost['genes']:,} genes, {models}in about {_duration(cost['seconds'])} and with "
        f"{cost['gigabytes']:.1f} GB of memory ({cost['free_gigabytes']:.1f} GB are free), with default options on this machine"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"
