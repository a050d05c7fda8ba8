"""The format of a saved model: what stands in the folder stays readable, whatever becomes of the classes."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import erf

import snrmix

NETWORKS, FEATURES, HIDDEN, GENES = 2, 3, 4, ["a", "b", "c"]
WEIGHTS = {
    "stem_weight": (FEATURES, HIDDEN),
    "stem_bias": (1, HIDDEN),
    "head_weight": (HIDDEN, 2),
    "head_bias": (1, 2),
    "centre": (1, FEATURES),
    "inverse_scale": (1, FEATURES),
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    found = {
        f"network.{name}": rng.normal(size=(NETWORKS, *shape)).astype(np.float32) for name, shape in WEIGHTS.items()
    }
    return found | {
        "targets.mean": rng.normal(size=(NETWORKS, 3)).astype(np.float32),
        "targets.scale": rng.uniform(0.5, 2, NETWORKS),
        "targets.basis": rng.normal(size=(NETWORKS, 2, 3)).astype(np.float32),
        "encoder_probe": np.zeros(0, np.float32),
        "seen.spots": np.arange(5, dtype=np.uint64),
        "seen.held_out": np.zeros((NETWORKS, 5), bool),
    }


@pytest.fixture
def folder(arrays, tmp_path):
    """A model of format 1, written without the package."""
    scores = pd.DataFrame({"mse_ratio": [0.5], "pearson": [0.7]}, pd.Index(["snrmix"], name="method"))
    record = {
        "format": 1,
        "versions": {"snrmix": "0.1.0"},
        "genes": GENES,
        "input_units": "counts",
        "encoding": {"encoder": None, "use_rep": "X_mine", "width": FEATURES, "scales": [], "sides_um": None},
        "has_own_encoder": False,
        "options": {"accelerator": "cpu", "n_folds": 2, "random_state": 0, "kriging": True, "encoder": "colour"},
        "scores": scores.to_dict("tight"),
        "gene_scores": scores.iloc[[0] * len(GENES)].set_axis(GENES).to_dict("tight"),
    }
    save_file(arrays, tmp_path / "weights.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(record))
    return tmp_path


def test_a_model_of_format_1_predicts_what_its_numbers_say(folder, arrays):
    features = np.random.default_rng(1).normal(size=(7, FEATURES)).astype(np.float32)
    adata = anndata.AnnData(
        np.zeros((7, 3), np.float32), obsm={"X_mine": features, "spatial": np.arange(14.0).reshape(7, 2)}
    )
    w = {name: arrays[f"network.{name}"].astype(float) for name in WEIGHTS}
    inputs = (features - w["centre"]) * w["inverse_scale"]
    hidden = inputs @ w["stem_weight"] + w["stem_bias"]
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    outputs = (hidden @ w["head_weight"] + w["head_bias"]) * arrays["targets.scale"][:, None, None]
    expected = np.maximum((outputs @ arrays["targets.basis"] + arrays["targets.mean"][:, None]).mean(0), 0)
    model = snrmix.SNRMix.load(folder)
    np.testing.assert_allclose(model.predict(adata).X, expected, rtol=1e-4, atol=1e-5)
    assert list(model.genes) == GENES and model.units == "log1p(counts per 10,000)"
    assert model.scores.loc["snrmix", "pearson"] == 0.7 and (expected > 0).any()
    with pytest.raises(KeyError, match="has nothing to make draws of.*it was made by an older version"):
        snrmix.tl.draws(model.predict(adata))


def test_what_is_saved_again_is_the_same(folder, arrays, tmp_path):
    snrmix.SNRMix.load(folder).save(tmp_path / "again")
    again = load_file(tmp_path / "again" / "weights.safetensors")
    assert again.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(again[name], values)
        assert again[name].dtype == values.dtype
    old, new = (json.loads((path / "model.json").read_text()) for path in (folder, tmp_path / "again"))
    assert {**new, "versions": old["versions"]} == old


def test_a_model_that_lacks_an_array_is_refused(folder, arrays):
    for name in ("targets.scale", "network.stem_bias", "seen.spots", "encoder_probe"):
        save_file({key: values for key, values in arrays.items() if key != name}, folder / "weights.safetensors")
        with pytest.raises(ValueError, match="is damaged"):
            snrmix.SNRMix.load(folder)


def test_what_a_later_version_adds_to_a_format_is_left_alone(folder, arrays):
    """Only what changes the meaning of the rest makes a new format."""
    record = json.loads((folder / "model.json").read_text())
    record |= {"mood": "good", "encoding": {**record["encoding"], "lens": "40x"}}
    record["options"] |= {"sharpen": True}
    (folder / "model.json").write_text(json.dumps(record))
    save_file({**arrays, "lens.curve": np.ones(3, np.float32)}, folder / "weights.safetensors")
    features = np.ones((2, FEATURES), np.float32)
    adata = anndata.AnnData(np.zeros((2, 3), np.float32), obsm={"X_mine": features, "spatial": np.eye(2)})
    assert np.isfinite(snrmix.SNRMix.load(folder).predict(adata).X).all()


@pytest.mark.parametrize(
    ("number", "says"),
    [(0, "is damaged .there is no format 0"), ("1", "is damaged"), (None, "is damaged"), (2, "update snrmix")],
)
def test_a_format_that_cannot_be_read_is_refused(folder, number, says):
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**record, "format": number}))
    with pytest.raises(ValueError, match=says):
        snrmix.SNRMix.load(folder)
