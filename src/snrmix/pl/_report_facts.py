"""What went into a result, and what looked doubtful."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from snrmix.data.results import MEASURED, MODELLED, WARNINGS, Result
from snrmix.pl._report_repeat import is_prediction

if TYPE_CHECKING:
    from snrmix.io import Description


ABSENT = ("none", "None")  # what records have of an argument that was not given
FILLS = {
    "unmeasured": "what was measured at measured spots, predictions elsewhere",
    "all": "predictions at every spot; at measured ones by models that had not seen them",
}
DEPTHS = {
    "spot": "as it would be observed at that spot",
    "typical": "as if every spot had the median number of counts, so that maps show no depth",
}


def look_at(data, result: Result, image, where: dict) -> Description:
    """What `snrmix.io.describe` says of the object, with the spots and the layer that the result is of."""
    from snrmix.io.describe import describe

    parameters = result.record.get("parameters", {})
    layer, use_rep = parameters.get("layer", "X"), str(parameters.get("use_rep", "none"))
    given = {} if isinstance(image, bool | np.bool_) else {"image": image}
    given |= {} if use_rep in ABSENT else {"use_rep": use_rep}
    return describe(
        data, measured=result.name(MEASURED), layer=None if layer == "X" else str(layer),
        units=str(result.record["input_units"]), **given, **where,
    )  # fmt: skip


def facts_of(result: Result, found: Description) -> list[tuple[str, str]]:
    """Labels and texts."""
    return [(label, text) for label, text in _facts(result, found) if text]


def _facts(result: Result, found: Description) -> Iterator[tuple[str, str]]:
    record, table = result.record, result.table
    parameters = record.get("parameters", {})
    yield (
        "Size",
        f"{table.n_obs:,} spots, {table.n_vars:,} genes, of which {int(result.flags(MODELLED).sum()):,} were modelled",
    )
    measured = int(result.is_measured.sum())
    yield "Measured", f"{measured:,} of {table.n_obs:,} spots ({100 * measured / table.n_obs:.0f} %)"
    if not is_prediction(result):
        yield "Expression read", _expression(found, str(parameters.get("layer", "X")))
    yield "Unit of the maps", str(record["units"])
    yield "The imputed layer has", FILLS.get(str(record["fill"]), str(record["fill"]))
    yield "Values are", DEPTHS.get(str(record.get("at_depth", "")), "")
    yield "Features of the image", _encoder(parameters)


def _expression(found: Description, layer: str) -> str:
    from snrmix.io._description import LOOKS

    for one in found.get("matrices", ()):
        if one["name"] == layer:
            return f"{'X' if layer == 'X' else f'layer {layer}'}: {LOOKS.get(one['looks_like'], one['looks_like'])} ({one['seen']})"
    return layer


def _encoder(parameters: dict) -> str:
    representation, encoder = (str(parameters.get(name, "none")) for name in ("use_rep", "encoder"))
    if representation not in ABSENT:
        return f"those in obsm[{representation!r}]"
    return "" if encoder in ABSENT else encoder


def slide_facts(result: Result, found: Description) -> list[dict]:
    """For every slide its spots, its array, its scale, the image that was read, and the patches."""
    return [_slide(result, one) for one in found.get("libraries", ())]


def _slide(result: Result, one: dict) -> dict:
    spots = f"{one['spots']:,}"
    if one.get("measured") is not None:
        spots += f", {one['measured']:,} measured ({100 * one['measured'] / max(one['spots'], 1):.0f} %)"
    return {
        "name": one["name"],
        "spots": spots,
        "array": _array(one),
        "scale": _scale(one),
        "image": _image(result, one),
        "patches": _patches(result, one["name"]),
    }


def _array(one: dict) -> str:
    known = {"other": "another array", "none": "none that was recognised"}
    gaps = f", {one['gaps']:,} gaps amid the spots" if one.get("gaps") else ""
    return known.get(one.get("array", "none"), one.get("array", "")) + gaps


def _scale(one: dict) -> str:
    if "pitch" not in one:
        return "positions could not be read"
    um = one["um_per_px"]
    if not np.isfinite(um):
        return f"{one['pitch']:.4g} px from spot to spot; micrometres are not known"
    return f"{one['pitch']:.4g} px from spot to spot = {one['pitch'] * um:.4g} µm ({um:.3g} µm per px)"


def _image(result: Result, one: dict) -> str:
    read = result.record["image"].get("read", {}).get(one["name"].replace("/", "|"))
    if read is None:
        read = one.get("image")
    if not read:
        return "none"
    name = str(read["name"]).rpartition("/")[2].removesuffix(f" of library {one['name']!r}")
    um = float(read["um_per_px"])
    return f"{name}, {int(read['width']):,} x {int(read['height']):,} px" + (
        f", {um:.3g} µm per px" if np.isfinite(um) else ""
    )


def _patches(result: Result, name: str) -> str:
    record = result.record["image"]
    known = [str(library) for library in np.atleast_1d(record["libraries"])]
    if "patch_side" not in record or name not in known:
        return ""
    at = known.index(name)
    sides, um = (
        np.atleast_2d(np.asarray(record["patch_side"], float))[at],
        float(np.atleast_1d(record["um_per_px"])[at]),
    )
    unit, factor = ("µm", um) if np.isfinite(um) else ("px", 1.0)
    return f"squares of {', '.join(f'{side * factor:.0f}' for side in sides)} {unit} around each spot"


def doubts_of(result: Result, found: Description, warnings: Sequence[str], notes: Sequence[str]) -> list[str]:
    """What the run warned of, and what else does not look right, each once."""
    recorded = [str(one) for one in np.atleast_1d(result.record.get(WARNINGS, np.zeros(0, object)))]
    own = [] if is_prediction(result) else [*found["refused"], *found["doubtful"]]
    return list(dict.fromkeys([*warnings, *recorded, *own, *notes]))


def parameters_of(result: Result) -> dict[str, object]:
    """Parameters and versions, as they were recorded."""
    parameters = [(str(name), _text(value)) for name, value in result.record.get("parameters", {}).items()]
    versions = [(str(name), str(value)) for name, value in result.record.get("versions", {}).items()]
    return {"parameters": parameters, "versions": versions, "made_by": dict(versions).get("snrmix", "")}


def _text(value) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{name}={_text(one)}" for name, one in value.items() if name != "name")
        return f"{value.get('name', '')}({inside})"
    return str(value.tolist()) if hasattr(value, "tolist") else str(value)
