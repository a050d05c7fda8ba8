"""What to do about differences between slides: for a slide that has an image alone, and for slides that are half measured.

python benchmarks/between_slides.py
python benchmarks/between_slides.py --groups MOB "HER2 C" --ways "as they are" "stains alike"

Ways: features as they are; as if all slides were stained alike (what models for other slides do); features moved to a common
mean over slides, whole or half; kriging with the covariance between slides halved; kriging of expression less the mean of
each slide.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
from sections import add_options, machine, write_table
from several_slides import GROUPS, UNRELATED, load_group, mean_ratio, observed_values

import snrmix
from snrmix.engine.kriging import krige
from snrmix.engine.kriging.covariance import Correlations, Relations
from snrmix.engine.kriging.field import Field
from snrmix.engine.scores.metrics import pearson
from snrmix.plan.features import Features, read_features
from snrmix.plan.options import read_options
from snrmix.plan.parts import plan_models, run_of
from snrmix.plan.source import read_source

WAYS = (
    "as they are",
    "stains alike",
    "features centred",
    "features half centred",
    "half between slides",
    "expression centred",
)


def main() -> None:
    """Measure every group, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser, seeds=(0,))
    parser.add_argument("--groups", nargs="+", default=[*GROUPS, "HER2 B4 and CRC"], help="names of groups of slides")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--most", type=int, default=600, help="spots of a section; more are cut to a random part")
    options = parser.parse_args()
    rows = []
    for name in options.groups:
        slides, images = load_group((GROUPS | UNRELATED)[name], options)
        own = slides.obs["library_id"].to_numpy()
        for slide in np.unique(own):
            rows.append({"slides": name, "predicted": slide, **measure(slides, images, own != slide, options)})
            print(rows[-1], flush=True)
        if name not in UNRELATED:
            for seed in options.seeds:
                half = snrmix.pp.hold_out(slides, random_state=seed, copy=True).obs["measured"].to_numpy()
                rows.append(
                    {"slides": name, "predicted": f"all, half measured, seed {seed}"}
                    | measure(slides, images, half, options)
                )
                print(rows[-1], flush=True)
    title = (
        "Differences between slides: error as a share of that of the mean of the measured spots, of a slide that has an image alone "
        "(in brackets Pearson per gene), or of slides that are half measured, by a model of all of them."
    )
    note = f"{options.genes} genes; sections of more than {options.most} spots are a random part of so many; "
    print(
        "\n"
        + write_table(
            pd.DataFrame(rows),
            options.out / "between_slides",
            title,
            note + f"snrmix {snrmix.__version__} on {machine()}.",
        )
    )


def measure(slides, images: dict, measured: np.ndarray, options) -> dict[str, str]:
    """Error of the model that sees all measured slides, for every way."""
    checked = read_options(share=True, random_state=0)
    source = read_source(slides, measured=measured, genes=options.genes, **images)
    parts = plan_models(source, checked)
    part = parts[-1]
    features = read_features(source, checked, run_of(source, checked, parts), alike=True)
    library, observed, found = source.sites.library, observed_values(slides, part), {}
    for way in options.ways:
        seen, change = features_for(way, features, library), nothing()
        if way == "half between slides":
            change = mock.patch.object(Correlations, "between", between)
        elif way == "expression centred":
            change = expression_centred()
        with change:
            predicted = part.stack(seen, part.settings(checked)).predicted
        ratio = mean_ratio(part, observed, predicted)
        found[way] = f"{ratio:.3f} ({pearson(observed, predicted).mean():.3f})" if part.elsewhere else f"{ratio:.4f}"
    return found


nothing = contextlib.nullcontext


def features_for(way: str, features: Features, library: np.ndarray) -> Features:
    """Features of all sites, whatever model asks for them."""
    if way == "stains alike":
        return replace(features, values=features.values if features.alike is None else features.alike)
    strength = {"features centred": 1.0, "features half centred": 0.5}.get(way, 0.0)
    values = features.values.astype(np.float32)
    means = {code: values[library == code].mean(0) for code in np.unique(library)}
    for code, mean in means.items():
        values[library == code] += strength * (np.mean(list(means.values()), axis=0) - mean)
    return replace(features, values=values, alike=None)


def between(self: Correlations, rows: np.ndarray, columns: np.ndarray, plain=Correlations.between) -> Relations:
    """Relations with half the correlation of looks between slides."""
    relations, library = plain(self, rows, columns), self.sites.library
    same = library[rows][..., :, None] == library[columns][..., None, :]
    return replace(relations, image=relations.image * np.where(same, 1.0, 0.5))


@contextlib.contextmanager
def expression_centred():
    """Kriging of deviations from the mean of each slide; a slide without measured spots gets the mean of their means."""
    fit, predict, of = krige.Kriging.fit, krige.FittedKriging.predict, Field.of.__func__
    seen: dict = {}

    def fit_(self, train, *others):
        seen["train"], seen["is_first"] = self.correlations.sites.library[train], True
        return fit(self, train, *others)

    def of_(cls, values, noise, order):
        if not seen.pop("is_first", False):  # rates, which have no such mean
            return of(cls, values, noise, order)
        means = {code: values[seen["train"] == code].mean(0) for code in np.unique(seen["train"])}
        mean = np.mean(list(means.values()), axis=0)
        field = of(cls, values - np.array([means[code] for code in seen["train"]]) + mean, noise, order)
        seen["level"] = seen.get("level", {}) | {id(field): {code: own - mean for code, own in means.items()}}
        return field

    def predict_(self, targets):
        kriged, level = predict(self, targets), seen["level"][id(self.expression)]
        for code, own in level.items():
            kriged.mean[self.observed.correlations.sites.library[targets] == code] += own
        return kriged

    with (
        mock.patch.object(krige.Kriging, "fit", fit_),
        mock.patch.object(krige.FittedKriging, "predict", predict_),
        mock.patch.object(Field, "of", classmethod(of_)),
    ):
        yield


if __name__ == "__main__":
    main()
