import numpy as np
import pytest

import snrmix


def values_of(ax):
    (found,) = [c for c in ax.collections if c.get_array() is not None]
    return np.asarray(found.get_array())


def test_draws_are_the_first_of_the_library(half_imputed):
    gene = half_imputed.var_names[half_imputed.var["snrmix_modelled"]][0]
    axes = snrmix.pl.draws(half_imputed, gene, n=2, image=False)
    assert [ax.get_title() for ax in axes[0]] == ["imputed", "draw 1", "draw 2"]
    column = half_imputed.var_names.get_loc(gene)
    expected = [half_imputed.layers["snrmix"], *snrmix.tl.draws(half_imputed, 2)]
    for ax, layer in zip(axes[0], expected, strict=True):
        np.testing.assert_allclose(np.sort(values_of(ax)), np.sort(layer[:, column]), rtol=1e-6)
    assert len({c.get_clim() for ax in axes[0] for c in ax.collections if c.get_array() is not None}) == 1
    other = snrmix.pl.draws(half_imputed, gene, n=1, kind="expected", random_state=1, image=False)
    assert np.abs(np.sort(values_of(other[0, 1])) - np.sort(expected[1][:, column])).max() > 0.01


def test_draws_refuses_what_is_none(half_imputed, adata):
    gene = half_imputed.var_names[0]
    for wrong, says in (({"n": 0}, "n=0"), ({"kind": "mean"}, "kind='mean'")):
        with pytest.raises(ValueError, match=says):
            snrmix.pl.draws(half_imputed, gene, **wrong)
    with pytest.raises(KeyError, match="errors"):
        snrmix.pl.draws(adata, "GLAND_01", image=False)
