import numpy as np
import pytest

import snrmix


def test_weights_draws_a_point_per_gene_and_the_medians(adata, texts):
    adata.var.loc[adata.var_names[0], ["snrmix_weight_network", "snrmix_weight_kriging"]] = np.nan
    ax = snrmix.pl.weights(adata)
    network, kriging = (adata.var[f"snrmix_weight_{part}"].dropna() for part in ("network", "kriging"))
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.column_stack([network, kriging]))
    assert f"median {network.median():.2f}" in texts(ax) and f"median {kriging.median():.2f}" in texts(ax)
    del adata.var["snrmix_weight_kriging"]
    with pytest.raises(KeyError, match="snrmix_weight_kriging.*with kriging"):
        snrmix.pl.weights(adata)


def test_weights_says_when_all_genes_share_one(adata, texts):
    adata.var["snrmix_weight_network"], adata.var["snrmix_weight_kriging"] = 0.25, 0.7
    ax = snrmix.pl.weights(adata)
    assert f"one weight for all {adata.n_vars} genes" in texts(ax)
    assert [round(bar.get_width(), 2) for bar in ax.patches] == [0.25, 0.7, 0.05]
    assert all(words in texts(ax) for words in ("network 0.25", "kriging 0.70", "mean of the gene 0.05"))


def test_rates_are_a_part_of_kriging(adata, texts):
    adata.var["snrmix_weight_rates"] = 0.1
    ax = snrmix.pl.weights(adata)
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 1], adata.var["snrmix_weight_kriging"] + 0.1)
    adata.var["snrmix_weight_network"], adata.var["snrmix_weight_kriging"] = 0.25, 0.5
    ax = snrmix.pl.weights(adata)
    assert [round(bar.get_width(), 2) for bar in ax.patches] == [0.25, 0.5, 0.1, 0.15]
    assert "kriging of rates 0.10" in texts(ax)
