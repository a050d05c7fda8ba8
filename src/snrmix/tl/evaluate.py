from __future__ import annotations

import pandas as pd

from snrmix._globals import settled
from snrmix.tl._by_gene import Evaluation, score_by_gene
from snrmix.tl._held_out import MIN_HELD_OUT, choose_modelled, read_held_out, read_truth


@settled()
def evaluate(
    data,
    held_out,
    *,
    key: str = "snrmix",
    genes=None,
    layer: str | None = None,
    truth: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Compare imputed with observed expression at spots that the imputation never saw.

    Observed counts are noisy, and no prediction can explain their sampling noise. The share of the variance that could
    be explained is estimated for two kinds of ideal predictor: one that knows the sequencing depth of the held-out
    spot, and one that has to guess it from the spots around, see `snrmix.engine.scores.noise.sampling_noise`.

    Parameters
    ----------
    data
        The object that `snrmix.tl.impute` was called on; AnnData or SpatialData.
    held_out
        Where to compare: a boolean obs column, such as ``"measured_held_out"`` from `snrmix.pp.hold_out`, or a boolean
        array. The spots must have expression and have been unmeasured in that call; with ``fill="all"`` measured spots
        will do, since their values are out-of-fold.
    key
        ``key_added`` of that call.
    genes
        Genes to compare, as in `snrmix.tl.impute`; those that were not modelled are left out.
    layer
        Where the observed expression is; by default where that call read it.
    truth
        Layer in the units of the imputed one (log) to compare with instead, such as ``"truth"`` of
        `snrmix.datasets.synthetic_tissue`. What depends on counts is then NaN.
    library_key, table_key
        As in that call.

    Returns
    -------
    pandas.DataFrame
        One row per modelled gene, in the order of ``var``. "The mean" predicts the mean of the measured spots of
        the library (of all where it has none), without the spot itself where it is one of them.

        ``mse``, ``mae``
            Mean squared and mean absolute error, in log units.
        ``mse_mean``, ``mse_ratio``, ``explained``
            Squared error of the mean; ``mse`` as a share of it; 1 less that share (0 for a gene that never leaves the
            mean).
        ``pearson``, ``spearman``
            Correlation over held-out spots, mean over libraries; 0 where either side is constant.
        ``noise_known_depth``, ``noise_neighbour_depth``
            Variance of the sampling noise.
        ``explainable_known_depth``, ``explainable_neighbour_depth``
            Share of the explainable variance, ``mse_mean`` less noise, that is explained; NaN where that variance is
            within two standard errors of zero, and for genes seen in fewer than 5 held-out spots.
        ``moran_observed``, ``moran_predicted``
            Moran's I over the 6 nearest held-out spots of the same library; NaN where constant.
        ``mse_depth``, ``pearson_given_depth``, ``explained_given_depth``
            Squared error of depth alone, a gene that follows it at the depth that is predicted for the spot; correlation
            and share of the squared error explained beyond what the gene's share and the depth of the spot say.
        ``mse_without_shallow``, ``mse_ratio_without_shallow``, ``pearson_without_shallow``
            Without the tenth of the held-out spots that has the fewest counts.

        A layer at a typical depth is put back to the depth that is predicted for each spot before it is compared.

        Expression that was given as log values has no counts: noise, scores given depth, shares of the explainable variance and scores
        without the shallowest spots are NaN.

        ``attrs["overall"]`` has figures over all these genes: ``n_spots``, ``n_genes``, ``mse_ratio`` (a ratio of sums
        over genes), ``depth_ratio`` (that of depth alone), ``pearson_mean``, ``pearson_median``,
        ``pearson_given_depth_median``, ``floor_known_depth`` and ``floor_neighbour_depth`` (noise over
        squared error of the mean, a ratio of sums: the ``mse_ratio`` of an ideal predictor), ``explainable_known_depth``
        and ``explainable_neighbour_depth`` (``(1 - mse_ratio) / (1 - floor)``); each also with ``_without_shallow``.

    Raises
    ------
    KeyError, TypeError
        When there is no such result, column or layer.
    ValueError
        When the imputation has seen a held-out spot, a held-out spot has nothing to compare with, or the measured
        values are no longer those that were imputed from.

    Examples
    --------
    >>> snrmix.pp.hold_out(adata)
    >>> snrmix.tl.impute(adata, measured="measured")
    >>> scores = snrmix.tl.evaluate(adata, "measured_held_out")
    >>> scores.attrs["overall"]["mse_ratio"]
    """
    spots = read_held_out(
        data, held_out, key=key, layer=layer, library_key=library_key, table_key=table_key, fewest=MIN_HELD_OUT,
        compare=truth is None,
    )  # fmt: skip
    wanted = choose_modelled(spots, genes)
    target = None if truth is None else read_truth(spots, truth)
    return score_by_gene(Evaluation(spots, target), wanted)
