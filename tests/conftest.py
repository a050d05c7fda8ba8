import os
import signal
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import snrmix

os.environ.setdefault("TQDM_DISABLE", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background has it ignored

SMALL = {"n_rows": 12, "n_genes": 40, "image_px_per_pitch": 16}
DATA = Path(os.environ.get("SNRMIX_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def small_tissue():
    """A small synthetic section, read only."""
    return snrmix.datasets.synthetic_tissue(**SMALL)


@pytest.fixture
def tissue(small_tissue):
    """A copy of the small synthetic section, to change at will."""
    return small_tissue.copy()


@pytest.fixture
def sdata():
    """The small synthetic section as SpatialData; its table is in another order."""
    return snrmix.datasets.synthetic_spatialdata(**SMALL)


@pytest.fixture(scope="session")
def fast():
    """Options of `snrmix.tl.impute` that take a fraction of a second."""
    return {"encoder": "colour", "max_epochs": 2, "genes": 20, "n_folds": 2, "n_repeats": 1}


@pytest.fixture(scope="session")
def impute(fast):
    """`snrmix.tl.impute` with fast settings."""
    return lambda data, **options: snrmix.tl.impute(data, **{**fast, **options})


@pytest.fixture(scope="session")
def embedded(small_tissue):
    """The small synthetic section with its embedding, read only."""
    return snrmix.pp.embed_histology(small_tissue, encoder="colour", copy=True)


@pytest.fixture(scope="session")
def half_imputed(embedded, fast):
    """All genes of it imputed at spots that were held out, read only."""
    adata = snrmix.pp.hold_out(embedded, share=0.4, copy=True)
    snrmix.tl.impute(adata, measured="measured", **{**fast, "max_epochs": 8, "genes": None})
    return adata


@pytest.fixture(scope="session")
def real_file():
    """Path of a file or folder of real data; skips where it is absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{path} is absent; set SNRMIX_DATA to the folder with the real sections")
        return path

    return find


@pytest.fixture
def small_settings(monkeypatch, fast):
    """Calls written for readers take the smallest settings, whatever they ask for."""
    smallest = {name: value for name, value in fast.items() if name != "genes"}
    _override(monkeypatch, snrmix.tl, "impute", smallest, fast["genes"])
    _override(monkeypatch, snrmix.tl, "benchmark", {**smallest, "splits": 1}, fast["genes"])
    for name in ("draws", "pool", "rank_genes_groups", "spatial_autocorr", "leiden_consensus"):
        _override(monkeypatch, snrmix.tl, name, {"n_draws": 2}, None)


def _override(monkeypatch, owner, name: str, settings: dict, most_genes: int | None) -> None:
    """Let a function have settings of its own; a number of genes is lowered, and names of genes stay."""
    real = getattr(owner, name)

    def changed(*args, **options):
        options |= {key: value for key, value in settings.items() if key != "encoder" or "use_rep" not in options}
        genes = options.get("genes")
        if isinstance(genes, list) and isinstance(genes[0], int):
            options["genes"] = [most_genes, *genes[1:]]
        elif isinstance(genes, int):
            options["genes"] = most_genes
        return real(*args, **options)

    monkeypatch.setattr(owner, name, changed)


@pytest.fixture(scope="session")
def assert_unchanged():
    """Compare an object with a copy made before: every part, value, dtype and order."""
    return _assert_same


def _assert_same(before, after, path: str = "the object"):
    assert type(before) is type(after), path
    if isinstance(before, anndata.AnnData):
        for part in ("X", "obs", "var", "uns"):
            _assert_same(getattr(before, part), getattr(after, part), f"{path}.{part}")
        for part in ("obsm", "varm", "obsp", "varp", "layers"):
            parts = (dict(getattr(adata, part).items()) for adata in (before, after))
            _assert_same(*parts, f"{path}.{part}")
    elif isinstance(before, dict):
        assert list(before) == list(after), path
        for key in before:
            _assert_same(before[key], after[key], f"{path}[{key!r}]")
    elif isinstance(before, pd.DataFrame):
        pd.testing.assert_frame_equal(before, after, check_exact=True, obj=path)
    elif isinstance(before, pd.Series):
        pd.testing.assert_series_equal(before, after, check_exact=True, obj=path)
    elif sparse.issparse(before):
        assert before.format == after.format, path
        for part in ("data", "indices", "indptr"):
            _assert_same(getattr(before, part), getattr(after, part), f"{path}.{part}")
    elif isinstance(before, np.ndarray):
        assert before.dtype == after.dtype, path
        np.testing.assert_array_equal(before, after, err_msg=path)
    else:
        assert before == after or before is after, path
