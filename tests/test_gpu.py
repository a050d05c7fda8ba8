"""What a GPU must give, on machines that have one; the paths of the processor are tested by all other files."""

import numpy as np
import pytest
import torch

import snrmix

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.fixture(scope="module")
def section():
    """Three fifths of a synthetic section are measured."""
    return snrmix.pp.hold_out(snrmix.datasets.synthetic_tissue(16, 60), share=0.4, copy=True)


def imputed(section, accelerator: str, **options) -> np.ndarray:
    adata = section.copy()
    snrmix.tl.impute(adata, measured="measured", accelerator=accelerator, **options)
    return adata.layers["snrmix"]


def test_features_are_those_of_the_processor(section):
    own, other = (
        snrmix.pp.embed_histology(section, accelerator=how, copy=True).obsm["X_histology"].astype(float)
        for how in ("gpu", "cpu")
    )
    assert np.abs(own - other).max() < 2e-3 * np.abs(other).max()  # they are stored in half precision


def test_the_same_call_gives_the_same_result_twice(section):
    np.testing.assert_array_equal(imputed(section, "gpu"), imputed(section, "gpu"))


def test_a_result_is_close_to_the_processors(section):
    """Batches and dropout are drawn by another generator; the stack of MOB-2 correlated with .999999."""
    own, other = imputed(section, "gpu"), imputed(section, "cpu")
    assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.99


def test_fine_tuning_ends_near_the_processors(section):
    options = {"genes": 20, "scales": (2.3,), "n_folds": 2, "finetune": True}
    own, other = (
        imputed(section, how, finetuning=snrmix.Finetuning(max_epochs=2, progress=False), **options)
        for how in ("gpu", "cpu")
    )
    assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.9


def test_a_saved_model_goes_from_one_device_to_the_other(section, tmp_path):
    model = snrmix.SNRMix(max_epochs=5, accelerator="gpu").fit(section, measured="measured")
    model.save(tmp_path / "model")
    loaded = snrmix.SNRMix.load(tmp_path / "model")
    own = model.predict(section).X
    np.testing.assert_array_equal(loaded.predict(section).X, own)
    loaded.options["accelerator"] = "cpu"
    np.testing.assert_allclose(loaded.predict(section).X, own, atol=0.01 * own.std())
