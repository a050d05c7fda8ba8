"""Whatever is refused is refused before any work: no pixel is read, no patch embedded, no graph built, nothing changed."""

import dask.array as da
import numpy as np
import pytest

import snrmix
from snrmix.engine.losses import Losses
from snrmix.engine.options import Finetuning

CALLS = {
    "folds": {"n_folds": 0},
    "too many folds": {"n_folds": 80},
    "folds as text": {"n_folds": "5"},
    "repeats": {"n_repeats": 1.5},
    "validation out of range": {"n_folds": 1, "validation": 1.5, "fill": "unmeasured"},
    "validation column missing": {"n_folds": 1, "validation": "test", "fill": "unmeasured"},
    "validation column of numbers": {"n_folds": 1, "validation": "array_row", "fill": "unmeasured"},
    "validation leaves few": {"n_folds": 1, "validation": 0.95, "fill": "unmeasured"},
    "units": {"units": "cpm"},
    "layer": {"layer": "counts"},
    "measured": {"measured": "mesured"},
    "gene name": {"genes": ["gene that is not there"]},
    "gene column": {"genes": "highly_variable"},
    "gene number": {"genes": 0},
    "genes of another type": {"genes": 2.5},
    "k": {"mix": snrmix.SNRMixing(k=200)},
    "mix": {"mix": "snrr"},
    "mix of pixels": {"mix": "cutmix"},
    "losses": {"losses": {"edge": 1}},
    "fill": {"fill": "measured"},
    "fill without folds": {"fill": "all", "n_folds": 1},
    "preset": {"preset": "papr"},
    "scales": {"scales": (0, 1)},
    "scales as text": {"scales": "large"},
    "key": {"key_added": "a/b"},
    "key that is taken": {"key_added": "spatial"},
    "encoder": {"encoder": "efficientnet_lite9"},
    "encoder of another type": {"encoder": 3},
    "use_rep": {"use_rep": "X_pca"},
    "library_key": {"library_key": "slide"},
    "table_key": {"table_key": "cells"},
    "image_key": {"image_key": "fullres"},
    "um_per_px": {"um_per_px": -1},
    "um_per_px of another scale": {"um_per_px": 1e4},
    "um_per_px of other libraries": {"um_per_px": {"other": 1}},
    "image of other libraries": {"image": {"other": np.zeros((9, 9, 3), np.uint8)}},
    "kriging": {"kriging": "no"},
    "share": {"share": "yes"},
    "copy": {"copy": "yes"},
    "early_stopping": {"early_stopping": "yes"},
    "random_state": {"random_state": -1},
    "accelerator": {"accelerator": "tpu"},
    "devices": {"devices": 4},
    "epochs": {"max_epochs": 0},
    "option that does not exist": {"learning_rat": 1e-3},
    "option out of range": {"dropout": 1.5},
    "finetune": {"finetune": "first"},
    "nothing to fine-tune": {"finetune": True},
    "finetuning without finetune": {"finetuning": Finetuning()},
    "finetuning of another type": {"finetune": True, "finetuning": {"size": 32}},
    "folder of patches": {"finetune": True, "encoder": "module", "folder": "no folder"},
    "option of fine-tuning": {"finetune": True, "encoder": "module", "hidden": 5},
}
GIVEN_BY_SPATIALDATA_ALONE = ("table_key",)


@pytest.fixture
def watched(tissue, monkeypatch):
    """The small section with an image that counts reads, an encoder that counts patches, and both counts."""
    import torch
    from torch import nn

    work = {"pixels": 0, "patches": 0, "graphs": 0}
    entry = tissue.uns["spatial"]["synthetic"]
    pixels = entry["images"]["hires"]

    def read(block):
        work["pixels"] += 1
        return block

    # meta= keeps dask from trying the function out
    lazy = da.from_array(pixels, chunks=pixels.shape).map_blocks(
        read, dtype=pixels.dtype, meta=np.empty((0,) * 3, "u1")
    )
    entry["images"]["hires"] = lazy

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, patches):
            work["patches"] += len(patches)
            return patches.mean((2, 3)) * self.weight

    def counted(*args, **options):
        work["graphs"] += 1
        return build(*args, **options)

    import squidpy

    build = squidpy.gr.spatial_neighbors_knn
    monkeypatch.setattr(squidpy.gr, "spatial_neighbors_knn", counted)
    return tissue, snrmix.Encoder("counting", Counting(), 16), work


@pytest.fixture
def assert_untouched(assert_unchanged):
    """Compare an object with a copy made before; lazy images by the name that dask gives to what they are made of."""

    def compare(before, after):
        before, after = before.copy(), after.copy()
        images = [adata.uns.get("spatial", {}).get("synthetic", {}).get("images", {}) for adata in (before, after)]
        names = [{key: images_.pop(key).name for key in list(images_)} for images_ in images]
        assert names[0] == names[1]
        assert_unchanged(before, after)

    return compare


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_done_before_a_refusal(watched, impute, assert_untouched, name):
    tissue, encoder, work = watched
    options = dict(CALLS[name])
    if name in GIVEN_BY_SPATIALDATA_ALONE:
        tissue = snrmix.datasets.synthetic_spatialdata(n_rows=12, n_genes=40, image_px_per_pitch=16)
    if name == "nothing to fine-tune":
        encoder = snrmix.Encoder("counting", lambda patches: encoder.function(patches), 16)
    if options.get("encoder") in (None, "module"):
        options["encoder"] = encoder
    adata = tissue if hasattr(tissue, "obs") else tissue.tables["table"]
    before = adata.copy()
    with pytest.raises((ValueError, KeyError, TypeError)):
        impute(tissue, **options)
    assert work == {"pixels": 0, "patches": 0, "graphs": 0}
    assert_untouched(before, adata)


def test_the_watch_sees_work(watched, impute):
    """The same call without a mistake reads pixels, embeds and builds graphs: the counters can count."""
    tissue, encoder, work = watched
    impute(tissue, encoder=encoder, losses=Losses())
    assert min(work.values()) > 0 and work["patches"] >= 3 * tissue.n_obs


@pytest.mark.parametrize(
    "options", [{"encoder": "efficientnet_lite9"}, {"scales": -1}, {"accelerator": "tpu"}, {"copy": 2}]
)
def test_embedding_refuses_before_it_opens_the_image(watched, assert_untouched, options):
    tissue, encoder, work = watched
    before = tissue.copy()
    with pytest.raises((ValueError, TypeError)):
        snrmix.pp.embed_histology(tissue, **{"encoder": encoder, **options})
    assert work == {"pixels": 0, "patches": 0, "graphs": 0}
    assert_untouched(before, tissue)
