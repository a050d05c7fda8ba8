import numpy as np
import pytest

import snrmix


def test_gene_scores_counts_and_names_genes(adata, texts):
    axes = snrmix.pl.gene_scores(adata, n=3)
    written = texts(axes)
    n_reliable = int(adata.var["snrmix_reliable"].sum())
    assert f"{n_reliable} reliable" in written and f"{adata.n_vars - n_reliable} not reliable" in written
    ranked = adata.var_names
    assert all(name in written for name in [*ranked[:3], *ranked[-3:]]) and ranked[3] not in written
    assert f"{(adata.var['snrmix_explained'] > 0).mean():.0%} of genes beat their mean" in written
    assert f"median Pearson {adata.var['snrmix_pearson'].median():.2f}" in written
    assert sum(bar.get_height() for bar in axes[2].patches) == adata.n_vars


def test_gene_scores_fit_into_a_figure_that_is_saved_as_it_is(adata):
    figure = snrmix.pl.gene_scores(adata)[0].figure
    figure.draw_without_rendering()
    for ax in figure.axes:
        if ax.axison:
            box = ax.get_tightbbox()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_gene_scores_leaves_out_genes_without_a_score(adata, texts):
    adata.var.loc[adata.var_names[:10], ["snrmix_pearson", "snrmix_explained"]] = np.nan
    del adata.var["snrmix_reliable"]
    axes = snrmix.pl.gene_scores(adata)
    assert f"{adata.n_vars - 10} genes" in texts(axes)
    (points,) = axes[0].collections
    drawn = np.asarray(points.get_offsets())
    np.testing.assert_allclose(drawn[:, 1], np.sort(adata.var["snrmix_pearson"].dropna())[::-1])
    adata.var["snrmix_pearson"] = np.nan
    with pytest.raises(KeyError, match="holds no score"):
        snrmix.pl.gene_scores(adata)


def test_flagged_genes_are_seen_among_the_best_and_depth_is_told_apart(adata, texts):
    adata.var["snrmix_pearson_given_depth"] = adata.var["snrmix_pearson"] - 0.2
    adata.var["snrmix_explained_given_depth"] = adata.var["snrmix_explained"] - 0.3
    adata.var.iloc[1, adata.var.columns.get_loc("snrmix_reliable")] = False
    axes = snrmix.pl.gene_scores(adata, n=3)
    flagged = max(axes[0].collections, key=lambda drawn: drawn.get_zorder())
    np.testing.assert_allclose(flagged.get_offsets()[0], [2, adata.var["snrmix_pearson"].iloc[1]])
    assert len(axes[1].collections) == 1 + 3  # circles: the second best, and the three worst
    assert f"{adata.var['snrmix_pearson_given_depth'].median():.2f} given depth" in axes[0].get_title(loc="left")
    better = (adata.var["snrmix_explained_given_depth"] > 0).mean()
    assert axes[2].get_title(loc="left") == f"{better:.0%} of genes beat depth alone"
