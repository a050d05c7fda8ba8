"""What others make of the same hidden spots, genes and features: each with the defaults of its package, as far as it has any.

pip install --group peers                                            # LightGBM, PyKrige
pip install --no-deps TESLAforST opencv-python-headless              # TESLA asks for a package that is no more
python benchmarks/peers.py                                           # all on seven sections, seed 0: hours on one core
python benchmarks/peers.py --sections st_her2_C3 --methods ridge LightGBM
python benchmarks/peers.py --read a.csv b.csv                        # the table of earlier runs together

What cannot be imported is left out, and the table says why. snrmix is told nothing that the others are not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree
from sections import SECTIONS, add_options, load, machine, split_case, write_table

import snrmix
from snrmix.engine.scaling import Standardised, standard_scale
from snrmix.engine.scores.baselines import ridge, spatial_knn
from snrmix.engine.scores.metrics import pearson

COMPONENTS = 12  # of expression, for what predicts one value at a time
NEIGHBOURS = 10
TREES, SHARE = 100, 0.1  # of trees, and of the features that a split is chosen from
VARIOGRAM = "exponential"  # by default it is linear, which is worse: .992 in place of .923 on HER2 C3
NOT_RUN = "not run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, seeds=(0,))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="which of them")
    parser.add_argument("--read", nargs="+", type=Path, help="tables by split of earlier runs, instead of running")
    options = parser.parse_args()
    table = pd.concat(map(pd.read_csv, options.read)) if options.read else run(options)
    title = (
        "Other methods on the same hidden spots: error as a share of the mean's, and Pearson correlation, mean over genes; half of the "
        'spots measured, at random; same genes, and same features where a method takes any. "Not run": it would take too long.'
    )
    sizes = table.groupby("seed")["section"].unique().map(len)
    seeds = ", ".join(f"{seed}" if size == sizes.max() else f"{seed} (on {size})" for seed, size in sizes.items())
    note = f"{options.genes} genes of highest mean on measured spots; seeds {seeds}; snrmix {snrmix.__version__} on {machine()}."
    print("\n" + write_table(by_section(table), options.out / "peers", title, note))


def run(options) -> pd.DataFrame:
    """Ratio and correlation of every method on every split, one row each; also kept as a table after each section."""
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sections:
        adata, image = load(name, options.data, options.cache)
        for seed in options.seeds:
            kept = snrmix.pp.hold_out(adata, share=0.5, random_state=seed, key_added="kept", copy=True).obs["kept"]
            split = {"section": SECTIONS.get(name, name), "seed": seed}
            rows += [split | found for found in compare(adata, kept.to_numpy(), options.genes, image, options.methods)]
        pd.DataFrame(rows).to_csv(options.out / "peers_by_split.csv", index=False)
    return pd.DataFrame(rows)


def compare(adata, kept: np.ndarray, genes: int, image: dict, methods) -> list[dict]:
    """Scores of every method at the spots that are not kept; or why there are none."""
    case, observed = split_case(adata, kept, genes, image)
    of_mean, found = np.sum((case.means - observed) ** 2), []
    for method in methods:
        started = time.perf_counter()
        try:
            predicted = METHODS[method](case, adata)
        except ImportError as error:
            found.append({"method": method, "ratio": np.nan, "pearson": np.nan, "reason": str(error)})
            continue
        ratio = float(np.sum((predicted - observed) ** 2) / of_mean)
        seconds = round(time.perf_counter() - started, 1)
        correlation = float(np.mean(pearson(observed, predicted)))
        found.append({"method": method, "ratio": ratio, "pearson": correlation, "reason": "", "seconds": seconds})
        print(f"{method}: {ratio:.3f}, {correlation:.3f}, {seconds} s", flush=True)
    return found


def by_section(table: pd.DataFrame) -> pd.DataFrame:
    """A row per method and a column per section: ratio (Pearson), means over seeds, or why there are none."""
    table = table.assign(reason=table["reason"].fillna(""))
    cells = {}
    for (section, method), some in table.groupby(["section", "method"], sort=False):
        values = f"{some['ratio'].mean():.3f} ({some['pearson'].mean():.3f})"
        cells[section, method] = values if some["ratio"].notna().any() else some["reason"].iloc[0]
    wide = pd.Series(cells).unstack(0).reindex(columns=table["section"].unique())
    order = [method for method in METHODS if method in wide.index]
    return wide.loc[order].fillna(NOT_RUN).rename_axis("method").reset_index()


# The methods: from a case and its section to values at the hidden spots


def ours(case, adata) -> np.ndarray:
    return case.at_hidden(case.stacked.predicted)


def looks(case) -> tuple[np.ndarray, np.ndarray]:
    """Features of measured and of hidden spots, standardised by the measured ones."""
    features, measured = case.section.features, case.section.measured
    every = np.ones(features.shape[1], bool)
    scaled = Standardised(features, *standard_scale(features, measured), every)[:]
    return scaled[measured], scaled[case.hidden]


def places(case) -> tuple[np.ndarray, np.ndarray]:
    """Positions of measured and of hidden spots, in pitches."""
    return case.section.positions[case.section.measured], case.section.positions[case.hidden]


def one_by_one(case, predict) -> np.ndarray:
    """Expression by its leading principal components, each predicted by ``predict(scores)``, shape (hidden,)."""
    values = case.section.expression.astype(np.float64)
    mean = values.mean(0)
    left, size, axes = np.linalg.svd(values - mean, full_matrices=False)
    scores = (left * size)[:, :COMPONENTS]
    return mean + np.column_stack([predict(column) for column in scores.T]) @ axes[:COMPONENTS]


def extra_trees(case, adata) -> np.ndarray:
    from sklearn.ensemble import ExtraTreesRegressor

    seen, hidden = looks(case)
    model = ExtraTreesRegressor(TREES, max_features=SHARE, random_state=0)
    return model.fit(seen, case.section.expression).predict(hidden)


def light_gbm(case, adata) -> np.ndarray:
    from lightgbm import LGBMRegressor

    seen, hidden = (np.hstack(both) for both in zip(looks(case), places(case), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return one_by_one(
            case, lambda y: LGBMRegressor(random_state=0, verbose=-1, n_jobs=1).fit(seen, y).predict(hidden)
        )


def pykrige(case, adata) -> np.ndarray:
    from pykrige.ok import OrdinaryKriging

    (x, y), (hidden_x, hidden_y) = (xy.T for xy in places(case))

    def predict(scores):
        kriging = OrdinaryKriging(x, y, scores, variogram_model=VARIOGRAM, exact_values=False)
        return np.asarray(kriging.execute("points", hidden_x, hidden_y)[0])

    return one_by_one(case, predict)


def gaussian_process(case, adata) -> np.ndarray:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    seen, hidden = places(case)
    kernel = ConstantKernel() * RBF(5.0) + WhiteKernel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bound was reached
        model = GaussianProcessRegressor(kernel, normalize_y=True).fit(seen, case.section.expression)
    return model.predict(hidden)


def near_in_space(case, adata) -> np.ndarray:
    section = case.section
    return spatial_knn(section.positions, section.library, section.measured, case.hidden, section.expression)


def near_in_looks(case, adata) -> np.ndarray:
    from sklearn.neighbors import KNeighborsRegressor

    seen, hidden = looks(case)
    return KNeighborsRegressor(NEIGHBOURS).fit(seen, case.section.expression).predict(hidden)


def ridge_regression(case, adata) -> np.ndarray:
    return ridge(case.section.features, case.section.measured, case.hidden, case.section.expression)


def tesla(case, adata) -> np.ndarray:
    """Superpixels of a quarter of a pitch on the stored image; a spot has the value of the superpixel that is nearest."""
    with contextlib.redirect_stdout(io.StringIO()):
        import cv2
        import TESLA

    (library,) = adata.uns["spatial"].values()
    pixels = library["images"]["hires"]
    pixels = pixels if pixels.dtype == np.uint8 else (255 * np.asarray(pixels)).astype(np.uint8)
    at = np.asarray(adata.obsm["spatial"])[:, :2] * library["scalefactors"]["tissue_hires_scalef"]
    at = at[case.part.sites.order]
    step = max(int(pitch(at) / 4), 1)
    names = [str(number) for number in range(case.section.expression.shape[1])]
    rows = at[case.section.measured]
    obs = pd.DataFrame({"pixel_x": rows[:, 1], "pixel_y": rows[:, 0]}, [f"s{i}" for i in range(len(rows))])
    known = AnnData(case.section.expression, obs, pd.DataFrame(index=names))
    outline = cv2.convexHull(at.round().astype(np.int32))
    # The program looks its superpixels up by number, where anndata makes names of all numbers by now.
    sys.modules["TESLA.imputation"].AnnData = lambda values: SimpleNamespace(X=values, shape=values.shape)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fine = TESLA.imputation(img=pixels[..., :3], raw=known, cnt=outline, genes=names, res=step)
    nearest = cKDTree(fine.obs[["y", "x"]].to_numpy()).query(at[case.hidden])[1]
    return np.asarray(fine.X)[nearest]


def pitch(positions: np.ndarray) -> float:
    """Median distance of a spot to its nearest."""
    return float(np.median(cKDTree(positions).query(positions, 2)[0][:, 1]))


METHODS = {
    "snrmix": ours,
    "ridge": ridge_regression,
    "ExtraTrees (scikit-learn)": extra_trees,
    "LightGBM": light_gbm,
    "ordinary kriging (PyKrige)": pykrige,
    "Gaussian process (scikit-learn)": gaussian_process,
    "10 nearest in space": near_in_space,
    "10 nearest in looks": near_in_looks,
    "TESLA": tesla,
}


if __name__ == "__main__":
    main()
