"""Sections of very many sites: the ways that are taken for them give what the ordinary ones give, within tolerance."""

import anndata
import numpy as np
import pandas as pd
import psutil
import pytest
from scipy import ndimage

import snrmix
from snrmix.engine.kriging.krige import is_exact
from snrmix.engine.scores.baselines import spatial_knn
from snrmix.plan import estimate
from snrmix.plan.cost import Run, fitting_ways
from snrmix.plan.estimate import Speed, announce, seconds_of

GENES = 20
LARGE = {
    "snrmix.engine.kriging.krige.EXACT_SPOTS": 500,
    "snrmix.engine.kriging.choice.CHOICE_SPOTS": 250,
    "snrmix.engine.network.targets.MOST_VALUES": 10_000,
    "snrmix.engine.network.crossfit.COMPONENTS": 8,
    "snrmix.engine.network.heads.MOST_STEPS": 4,
    "snrmix.engine.conformal.MOST_SPOTS": 1000,
    "snrmix.engine.scores.baselines.MOST_RIDGE_SPOTS": 600,
    "snrmix.engine.kriging.components.DISTINCT_DEPTHS": 20,
    "snrmix.engine.kriging.covariance.SITES_AT_ONCE": 700,
}


@pytest.fixture(scope="module")
def section():
    """3,025 bins of 8 um over an image: darkness drives some genes, a smooth zone the others; and the true rates."""
    rng = np.random.default_rng(0)
    image = snrmix.datasets.synthetic_tissue(n_rows=8, n_genes=7, image_px_per_pitch=48).uns["spatial"]["synthetic"][
        "images"
    ]["hires"]
    n, pitch = 55, 8 * 0.48
    row, column = (index.ravel() for index in np.indices((n, n)))
    positions = np.column_stack([column, row]) * pitch + (np.array(image.shape[1::-1]) - n * pitch) / 2
    dark = ndimage.gaussian_filter(image.mean(2), 5)
    drive = ndimage.map_coordinates(dark, positions[:, ::-1].T, order=1)
    drive, zone = (drive - drive.mean()) / drive.std(), 1.5 * np.sin(column / 12) * np.cos(row / 15)
    log_rates = rng.normal(0, 0.7, GENES) + np.where(np.arange(GENES) % 2, drive[:, None], zone[:, None])
    rates = np.exp(log_rates)
    rates *= 60 / rates.sum(1, keepdims=True)
    adata = anndata.AnnData(
        rng.poisson(rates).astype(np.float32),
        obs=pd.DataFrame({"measured": rng.random(len(row)) < 0.6}, index=[f"bin_{i:04d}" for i in range(len(row))]),
        obsm={"spatial": positions},
    )
    adata.obs["measured"] &= np.asarray(adata.X.sum(1)).ravel() > 0
    adata.uns["spatial"] = {"hd": {"images": {}, "scalefactors": {"microns_per_pixel": 1 / 0.48}}}
    return adata, image, np.log1p(rates / rates.sum(1, keepdims=True) * 1e4)


def impute(adata, image, **options):
    given = {"encoder": "colour", "n_folds": 2, "max_epochs": 3, "measured": "measured", **options}
    snrmix.tl.impute(adata, image=image, **given)
    return adata.layers["snrmix"]


def correlation(truth, values) -> float:
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(truth.T, values.T, strict=True)]))


def test_dense_section_end_to_end(section, monkeypatch):
    adata, image, truth = section
    for name, value in LARGE.items():
        monkeypatch.setattr(name, value)
    whole = adata.copy()
    layer = impute(whole, image)
    assert not whole.uns["snrmix"]["kriging"]["exact"]
    assert (whole.uns["X_histology"]["grid_spacing"] > 0).all()
    assert np.isfinite(layer).all()

    order = np.random.default_rng(1).permutation(adata.n_obs)
    permuted = adata[order].copy()
    np.testing.assert_array_equal(impute(permuted, image), layer[order])

    hidden = ~adata.obs["measured"].to_numpy()
    counts = adata.X[~hidden] / adata.X[~hidden].sum(1, keepdims=True) * 1e4
    positions = adata.obsm["spatial"]
    library = np.zeros(adata.n_obs, int)
    knn = spatial_knn(
        positions, library, np.flatnonzero(~hidden), np.flatnonzero(hidden), np.log1p(counts).astype(np.float32)
    )
    assert correlation(truth[hidden], layer[hidden]) > correlation(truth[hidden], knn) + 0.02
    sd = whole.layers["snrmix_sd"][hidden]
    assert (sd > 0).all()


# The estimate


def seconds(run, products: float) -> float:
    """Of all stages, on a machine whose memory keeps up with its processor as that of the benchmark does."""
    return sum(seconds_of(run, Speed(products, products / 40)).values())


HD = Run(sites=250_000, measured=150_000, genes=500, columns=500, features=66, scales=3, patches=105_000)


@pytest.fixture
def free(monkeypatch):
    """Set the free memory in GB."""

    def say(gigabytes: float):
        memory = type("Memory", (), {"available": gigabytes * 1e9})
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr("snrmix._memory._left_in_groups", lambda: [])

    return say


@pytest.mark.parametrize("name", ["sites", "genes", "features", "columns"])
def test_estimates_grow_with_the_run(name):
    larger = Run(**{**vars(HD), name: 2 * getattr(HD, name)})
    assert larger.bytes >= HD.bytes
    assert seconds(larger, 1e10) >= seconds(HD, 1e10)
    assert Run(**{**vars(HD), "kriging": False}).bytes < HD.bytes
    assert seconds(HD, 2e10) < seconds(HD, 1e10)


@pytest.mark.parametrize(
    ("sites", "features", "gigabytes"), [(20_000, 66, 1.5), (60_000, 66, 2.3), (250_000, 66, 7.1), (50_000, 3906, 3.9)]
)
def test_memory_is_that_of_the_benchmark(sites, features, gigabytes):
    """Measured with benchmarks/visium_hd.py, beyond what the process had loaded."""
    sizes = {"sites": sites, "measured": sites * 6 // 10, "patches": sites * 42 // 100, "features": features}
    run = Run(**{**vars(HD), **sizes})
    assert 1 / 1.3 < run.bytes / 1e9 / gigabytes < 1.3


@pytest.mark.parametrize(
    ("sites", "measured", "genes", "columns", "gigabytes"),
    [
        (3106, 3106, 15_134, 36_601, 3.4),
        (3106, 3106, 2000, 36_601, 1.8),
        (3106, 1585, 250, 36_601, 1.8),
        (982, 463, 250, 33_217, 0.7),
    ],
)
def test_memory_of_visium_is_that_of_the_benchmark(sites, measured, genes, columns, gigabytes):
    """The colorectal and the muscle section with the default encoder, beyond what the process had loaded."""
    run = Run(sites=sites, measured=measured, genes=genes, columns=columns, features=3906, scales=3)
    assert 1 / 1.3 < run.bytes / 1e9 / gigabytes < 1.3


@pytest.mark.parametrize(("features", "networks", "every"), [(66, 124, 208), (3906, 132, 335)])
def test_time_is_that_of_the_benchmark(features, networks, every):
    """Processor seconds of 50,000 bins that are embedded, on a machine of about that speed."""
    run = Run(**{**vars(HD), "sites": 50_000, "measured": 30_141, "features": features, "patches": 0})
    expected = seconds_of(run, Speed(1e11, 1.6e9))
    assert 1 / 1.5 < expected["networks"] / networks < 1.5
    assert 1 / 1.5 < sum(expected.values()) / every < 1.5


def test_long_run_says_what_it_will_take(free, caplog, monkeypatch):
    free(14)
    monkeypatch.setattr(estimate, "machine_speed", lambda: Speed(1e11, 1.6e9))
    with caplog.at_level("INFO", logger="snrmix"):
        announce(HD)
    assert "250,000 sites x 500 genes: about 6.3 GB of memory (14.0 GB free) and " in caplog.text
    assert "minutes on this machine" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="snrmix"):
        announce(Run(**{**vars(HD), "patch_seconds": 0.2}))
        announce(Run(sites=900, measured=500, genes=200, columns=200, features=66, scales=3, patches=2700))
    assert caplog.text.count("GB of memory") == 1
    assert "hours on this machine" in caplog.text


@pytest.mark.parametrize(
    ("run", "gigabytes", "ways"),
    [
        (HD, 5.9, ["genes=450", "kriging=False", "a part of the section, up to about 225,000 sites"]),
        (
            Run(**{**vars(HD), "features": 3876}),
            8.5,
            ["one of the scales, scales=(2.3,)", "encoder='colour'", "a part of the section"],
        ),
        (HD, 1.5, ["What would fit: a part of the section, up to about 22,153 sites (adata[rows].copy())."]),
    ],
)
def test_run_that_does_not_fit_is_refused_with_the_ways_out(run, gigabytes, ways, free):
    free(gigabytes)
    with pytest.raises(ValueError, match="GB of memory are needed for 250,000 sites x 500 genes") as refusal:
        announce(run)
    assert f"and {gigabytes:.1f} GB are free. What would fit: " in str(refusal.value)
    for way in ways:
        assert way in str(refusal.value)


def test_ways_out_lead_out():
    """Following the advice is not refused again."""
    ways = fitting_ways(HD, 5.2e9)
    genes = next(int(way.removeprefix("genes=")) for way in ways if way.startswith("genes="))
    assert Run(**{**vars(HD), "genes": genes}).bytes <= 5.2e9 < Run(**{**vars(HD), "genes": genes * 10 // 9 + 1}).bytes
    assert "kriging=False" in ways
    assert Run(**{**vars(HD), "kriging": False}).bytes <= 5.2e9
    assert not any("encoder" in way for way in ways)  # it is colour already


def test_impute_refuses_before_it_embeds_and_leaves_the_object(section, free, assert_unchanged):
    adata = section[0].copy()
    before, called = adata.copy(), []

    def encoder(patches):
        called.append(len(patches))
        return patches.mean((2, 3))

    free(0.3)
    with pytest.raises(ValueError, match="GB of memory are needed for 3,025 sites x 20 genes"):
        impute(adata, section[1], encoder=encoder)
    assert sum(called) < 60  # to recognise the encoder, and to time it
    assert_unchanged(before, adata)


def test_embedding_that_does_not_fit_is_refused(section, free):
    free(0.3)
    with pytest.raises(
        ValueError, match="GB of memory are needed for the histology of 3,025 sites, and 0.3 GB are free"
    ):
        snrmix.pp.embed_histology(section[0].copy(), image=section[1], encoder="colour")


def test_object_of_all_genes_is_told_to_subset(free):
    from scipy import sparse

    adata = anndata.AnnData(
        sparse.csr_matrix((250_000, 18_000), dtype=np.float32), obsm={"spatial": np.zeros((250_000, 2))}
    )
    free(14)
    with pytest.raises(ValueError, match=r"layers of 250000 x 18000 values .* subset to the genes you want"):
        snrmix.tl.impute(adata)


def test_kriging_of_many_targets_is_estimated_as_it_is_done():
    """From neighbourhoods where spots times targets are many, however few spots there are."""
    few = Run(sites=30_000, measured=4000, genes=50, columns=50, features=66, scales=3)
    assert not is_exact(few.measured, few.sites - few.measured)
    assert seconds_of(few, Speed(1e11, 1.6e9))["kriging"] == pytest.approx(estimate.NEAR_KRIGING * 30_000 / 1e11)


@pytest.mark.parametrize(("sites", "measured", "taken"), [(1000, 507, 3.0), (4000, 2015, 14.5), (3000, 3000, 18.2)])
def test_kriging_takes_what_it_took(sites, measured, taken):
    """Processor seconds of synthetic sections with 250 genes, on a machine of that speed."""
    run = Run(sites=sites, measured=measured, genes=250, columns=250, features=700, scales=1)
    assert 1 / 1.5 < seconds_of(run, Speed(1.06e11, 1.65e9))["kriging"] / taken < 1.5


def test_fine_tuning_takes_time():
    """11 passes of every training patch an epoch: forward and backward, of a spot, its partner and their mixture."""
    run = Run(sites=2000, measured=1000, genes=50, columns=50, features=66, scales=2, epochs=10, kriging=False)
    tuned = Run(**{**vars(run), "tuning_seconds": 0.01})
    assert seconds(tuned, 1e12) == pytest.approx(2 * 0.01 * 10 * 5 * (11 * 800 + 200), rel=0.1)
    assert seconds(tuned, 1e12) > 100 * seconds(run, 1e12)
