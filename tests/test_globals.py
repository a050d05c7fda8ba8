"""Settings of the whole process change no result, and are left as they were."""

import random
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

import snrmix
from snrmix._globals import settled

FAST = {"n_folds": 2, "max_epochs": 1, "genes": 8, "random_state": 3}


class Tiny(torch.nn.Module):
    """An encoder that is quickly trained; its weights do not depend on anything but its seed."""

    def __init__(self):
        super().__init__()
        values = np.random.default_rng(0).normal(size=(6, 3, 4, 4)).astype(np.float32)
        self.weight = torch.nn.Parameter(torch.tensor(values, dtype=torch.float32, device="cpu"))

    def forward(self, patches):
        return torch.nn.functional.conv2d(patches, self.weight, stride=4).relu().mean((2, 3))


def results(folder) -> dict[str, np.ndarray]:
    """What the library makes of a small section, in all the ways that use torch or numpy in their own way."""
    adata = snrmix.datasets.synthetic_tissue(9, 12, image_px_per_pitch=12)
    adata.X[:5] = 0
    snrmix.pp.hold_out(adata, share=0.3)
    encoder = snrmix.Encoder("tiny", Tiny().requires_grad_(), 8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    found = {"X": adata.X.toarray(), "measured": adata.obs["measured"].to_numpy()}
    how = {**FAST, "measured": "measured", "encoder": encoder, "scales": 2.0, "accelerator": "cpu"}
    for name, options in (
        ("impute", {}),
        ("networks", {"kriging": False, "mix": "mixup"}),
        ("finetuned", {"finetune": True, "kriging": False}),
    ):
        table = snrmix.tl.impute(adata, **how, **options, copy=True)
        columns = table.var.select_dtypes([float, bool]).to_numpy(float)
        found |= {name: table.layers["snrmix"], f"{name}, sd": table.layers["snrmix_sd"], f"{name}, genes": columns}
    low, high = snrmix.tl.interval(table, 0.8)
    scores = snrmix.tl.evaluate(table, "measured_held_out").select_dtypes(float)
    found |= {"embedding": table.obsm["X_histology"], "low": low, "high": high, "scores": scores.to_numpy()}
    how.pop("measured")
    model = snrmix.SNRMix(**how).fit(adata, measured="measured")
    model.save(folder / "model", overwrite=True)
    found["predicted"] = model.predict(adata).X
    found["loaded"] = snrmix.SNRMix.load(folder / "model", encoder=encoder).predict(adata).X
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return results(tmp_path_factory.mktemp("expected"))


@contextmanager
def changed(get, set_, value):
    """Change a setting, see that it stays so, and put it back."""
    before = get()
    set_(value)
    there = get()
    try:
        yield
        assert get() == there, "the setting was changed"
    finally:
        set_(before)


def torch_switch(name: str, value):
    return changed(getattr(torch, f"get_{name}"), getattr(torch, f"set_{name}"), value)


def option(name: str, value):
    return changed(lambda: pd.get_option(name), lambda v: pd.set_option(name, v), value)


@contextmanager
def default_device(name: str):
    torch.set_default_device(name)
    try:
        yield
        assert torch.get_default_device().type == name
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def seeded(seed: int):
    """Other states of all global generators, which are not moved on."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    yield
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@contextmanager
def warnings_are(action: str):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        before = list(warnings.filters)
        yield
        assert warnings.filters == before


@contextmanager
def sklearn_returns_frames():
    import sklearn

    with sklearn.config_context(transform_output="pandas"):
        yield


@contextmanager
def dask_in_one_thread():
    import dask

    with dask.config.set(scheduler="synchronous"):
        yield


GLOBALS = {
    "float64 by default": lambda: torch_switch("default_dtype", torch.float64),
    "bfloat16 by default": lambda: torch_switch("default_dtype", torch.bfloat16),
    "another device by default": lambda: default_device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "coarse products": lambda: torch_switch("float32_matmul_precision", "medium"),
    "deterministic algorithms": deterministic,
    "anomaly detection": torch.autograd.detect_anomaly,
    "pandas copies on write": lambda: option("mode.copy_on_write", True),
    "pandas infers strings": lambda: option("future.infer_string", True),
    "pandas raises on chains": lambda: option("mode.chained_assignment", "raise"),
    "pandas without bottleneck": lambda: option("compute.use_bottleneck", False),
    "numpy raises": lambda: np.errstate(all="raise"),
    "numpy is silent": lambda: np.errstate(all="ignore"),
    "warnings raise": lambda: warnings_are("error"),
    "random states": lambda: seeded(123),
    "scikit-learn returns frames": sklearn_returns_frames,
    "dask without threads": dask_in_one_thread,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", GLOBALS)
def test_no_setting_changes_a_result(name, expected, tmp_path):
    with GLOBALS[name]():
        got = results(tmp_path)
    for what, values in expected.items():
        np.testing.assert_array_equal(got[what], values, err_msg=what)


def test_threads_change_results_by_rounding_alone(expected, tmp_path):
    with torch_switch("num_threads", 2 if torch.get_num_threads() == 1 else 1):
        got = results(tmp_path)
    for what, values in expected.items():
        np.testing.assert_allclose(got[what].astype(float), values, rtol=0, atol=1e-2, err_msg=what)


def test_threads_that_another_package_sets_inside_are_set_back():
    """As the parallel functions of numba do, which squidpy uses: to all processors, whatever ``OMP_NUM_THREADS`` says."""
    before = torch.get_num_threads()
    with settled():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_an_encoder_may_be_of_any_precision(tissue, dtype):
    encoders = [snrmix.Encoder("tiny", Tiny().to(kind), 8) for kind in (torch.float32, dtype)]
    exact, other = (snrmix.pp.embed_histology(tissue, encoder=e, copy=True).obsm["X_histology"] for e in encoders)
    assert np.abs(exact.astype(float) - other).max() < 0.02 * np.abs(exact).max()


def settings() -> tuple:
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.get_float32_matmul_precision(),
        torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), np.geterr(),
        list(warnings.filters),
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["float64 by default", "coarse products", "inference mode", "autocast", "numpy raises", "warnings raise"]
)
def test_settings_are_restored_after_an_error(name, tissue):
    with GLOBALS[name]():
        before = settings()
        with pytest.raises(ValueError, match="n_folds"):
            snrmix.tl.impute(tissue, n_folds=0)
        with pytest.raises(KeyboardInterrupt):
            snrmix.pp.embed_histology(tissue, encoder=interrupted)
        assert settings() == before


def interrupted(patches):
    assert torch.get_default_dtype() == torch.float32 and not torch.is_autocast_enabled("cpu")
    raise KeyboardInterrupt


def test_threads_inside_at_once_restore_what_was_there():
    """The first one to enter is not the first one to leave."""
    torch.set_default_dtype(torch.float64)
    before, inside, leave = settings(), [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def work(number: int) -> None:
        with settled():
            inside[number].set()
            leave[number].wait(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    try:
        for number in (0, 1):
            threads[number].start()
            inside[number].wait(10)
        for number in (0, 1):
            assert torch.get_default_dtype() == torch.float32
            leave[number].set()
            threads[number].join()
        assert settings() == before
    finally:
        torch.set_default_dtype(torch.float32)


def doors() -> dict:
    rooms = {name: getattr(snrmix, name) for name in ("tl", "pp", "pl", "datasets")}
    found = {f"{room}.{name}": getattr(module, name) for room, module in rooms.items() for name in module.__all__}
    methods = ("__init__", "fit", "predict", "save", "load")
    return {**found, "io.write_layer": snrmix.io.write_layer, **{n: getattr(snrmix.SNRMix, n) for n in methods}}


@pytest.mark.parametrize("name", doors())
def test_every_door_is_settled(name):
    door = getattr(doors()[name], "__func__", doors()[name])
    assert door.__code__ is settled()(lambda: None).__code__, f"decorate {name} with @settled()"


def test_warnings_about_this_package_are_what_the_user_says():
    def warn():
        warnings.warn_explicit("about our line", FutureWarning, "x.py", 1, module="snrmix.tl.impute")
        warnings.warn_explicit("about another", FutureWarning, "x.py", 1, module="pandas.core")

    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="snrmix")
        with settled(), pytest.raises(FutureWarning, match="our line"):
            warn()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        with settled(), warnings.catch_warnings(record=True) as said:
            warn()
    assert [str(one.message) for one in said] == ["about our line"]
