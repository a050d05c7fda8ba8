import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def _pretend_imputed(adata, key="snrmix"):
    """What `snrmix.tl.impute` writes, made up from the truth; by barcode, so that the row order does not matter."""
    measured = adata.obs_names.str[0].isin(["A", "C"])
    adata.obs[f"{key}_measured"] = measured
    adata.layers[key] = (adata.layers["truth"] + 0.1).astype(np.float32)
    adata.layers[f"{key}_sd"] = np.where(measured[:, None], 0, 0.5 + 0.1 * adata.layers["truth"]).astype(np.float32)
    n = adata.n_vars
    adata.var[f"{key}_pearson"] = np.linspace(0.9, -0.1, n)
    adata.var[f"{key}_explained"] = np.linspace(0.6, -0.2, n)
    adata.var[f"{key}_reliable"] = adata.var[f"{key}_pearson"] > 0.2
    adata.var[f"{key}_weight_network"] = np.linspace(0, 1, n)
    adata.var[f"{key}_weight_kriging"] = np.linspace(1, 0.2, n)
    curves = 1 + np.exp(-np.arange(12) / 4) + 0.01 * np.arange(5)[:, None]
    history = {"train_loss": curves, "validation_mse": curves, "best_epoch": np.array([3, 4, 5, 6, 11])}
    adata.uns[key] = {"input_units": "counts", "units": "log1p(counts per 10,000)", "history": history}
    return adata


@pytest.fixture(scope="session")
def pretend_imputed():
    """Writes a made-up result into an AnnData."""
    return _pretend_imputed


@pytest.fixture(scope="session")
def _imputed(small_tissue):
    return _pretend_imputed(small_tissue.copy())


@pytest.fixture
def adata(_imputed):
    """A section with a made-up result, to change at will."""
    return _imputed.copy()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def texts():
    """All that is written in the figure of some axes."""

    def read(axes):
        figure = np.ravel(axes)[0].figure
        return " | ".join(text.get_text().replace("\n", " ") for text in figure.findobj(matplotlib.text.Text))

    return read
