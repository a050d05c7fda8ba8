"""What runs an encoder: ONNX Runtime where it can, PyTorch where it must, with the same features."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import snrmix
from snrmix.images.encoder import encode
from snrmix.images.encoders import resolve_encoder
from snrmix.images.run_time import running

SIZE = 64
crops = np.random.default_rng(0).integers(256, size=(9, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def default():
    """The default encoder for small patches."""
    encoder = resolve_encoder("efficientnet_lite0")
    return snrmix.Encoder(encoder.name, encoder.function, SIZE, run_time=encoder.run_time)


def relative(found, wanted):
    return np.abs(found - wanted).max() / np.sqrt(np.mean(wanted**2))


def test_features_are_those_of_pytorch_and_the_same_in_every_batch(default):
    pytest.importorskip("onnxruntime")
    with running(default, "cpu") as run:
        found = run(crops)
        assert run.name.startswith("onnxruntime ")
        np.testing.assert_array_equal(run(crops[3:4]), found[3:4])
        np.testing.assert_array_equal(run(crops[::-1]), found[::-1])
    assert found.shape == (9, 1280) and found.dtype == np.float32
    assert relative(found, encode(default, crops, "cpu")) < 1e-4


def test_features_do_not_depend_on_threads(default):
    pytest.importorskip("onnxruntime")
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with running(default, "cpu") as run:
                found.append(run(crops))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_pytorch_takes_over_where_features_differ(default, caplog):
    pytest.importorskip("onnxruntime")

    class Wrong(torch.nn.Module):
        def forward(self, patches):
            return default.function(patches) + 0.01

        def to_onnx(self, size):
            return default.function.to_onnx(size)

    encoder = snrmix.Encoder("wrong", Wrong(), SIZE, run_time="onnxruntime")
    with caplog.at_level(logging.INFO, "snrmix"), running(encoder, "cpu") as run:
        np.testing.assert_array_equal(run(crops), encode(encoder, crops, "cpu"))
        assert run.name.startswith("torch ")
    assert "gives other features there" in caplog.text


@pytest.mark.parametrize("broken", [b"no model", b""])
def test_pytorch_takes_over_where_a_module_cannot_be_run(default, caplog, broken):
    pytest.importorskip("onnxruntime")

    class Broken(torch.nn.Module):
        def forward(self, patches):
            return patches.mean((2, 3))

        def to_onnx(self, size):
            return broken

    encoder = snrmix.Encoder("broken", Broken(), SIZE, run_time="onnxruntime")
    with caplog.at_level(logging.INFO, "snrmix"), running(encoder, "cpu") as run:
        np.testing.assert_array_equal(run(crops), encode(encoder, crops, "cpu"))
    assert "is run by PyTorch, not ONNX Runtime" in caplog.text


def test_pytorch_runs_it_where_onnx_runtime_is_missing(tissue, default, monkeypatch):
    with_it = snrmix.pp.embed_histology(tissue, encoder=default, scales=2.0, copy=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    alone = snrmix.pp.embed_histology(tissue, encoder=default, scales=2.0, copy=True)
    assert alone.uns["X_histology"]["run_time"].startswith("torch ")
    found, wanted = (table.obsm["X_histology"].astype(np.float32) for table in (with_it, alone))
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)  # half precision
    monkeypatch.undo()
    before = alone.obsm["X_histology"].copy()
    snrmix.pp.embed_histology(alone, encoder=default, scales=2.0)  # what ran it does not make it another embedding
    np.testing.assert_array_equal(alone.obsm["X_histology"], before)
    assert alone.uns["X_histology"]["run_time"].startswith("torch ")


def test_a_module_of_ones_own_can_ask_for_it(caplog):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 4, 2), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.LazyLinear(7)
    )
    network(torch.zeros(1, 3, SIZE, SIZE))
    how = {"mean": (0.5, 0.4, 0.5), "std": (0.2, 0.3, 0.2)}
    encoder = snrmix.Encoder("mine", network, SIZE, **how, run_time="onnxruntime")
    with caplog.at_level(logging.INFO, "snrmix"), running(encoder, "cpu") as run:
        found = run(crops)
        assert run.name.startswith("onnxruntime "), caplog.text
    assert relative(found, encode(encoder, crops, "cpu")) < 1e-4
    with running(snrmix.Encoder("mine", network, SIZE, **how), "cpu") as run:
        assert run.name.startswith("torch ")


def test_an_unknown_run_time_is_refused():
    with pytest.raises(ValueError, match="run_time='tvm' of encoder 'mine' must be 'torch'"):
        snrmix.Encoder("mine", torch.nn.Flatten(), SIZE, run_time="tvm")


def test_importing_it_leaves_nothing_behind_and_reports_nothing(tmp_path):
    pytest.importorskip("onnxruntime")
    code = (
        "import os; from snrmix.images.run_time import _import_runtime; before = dict(os.environ); "
        "_import_runtime(); assert dict(os.environ) == before"
    )
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "USERPROFILE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **home})
    left = [path.name for path in tmp_path.rglob("*") if "onnx" in path.name.lower() or "device" in path.name.lower()]
    assert left == []


def test_the_graph_is_valid(default):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(default.function.to_onnx(SIZE))
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 49
