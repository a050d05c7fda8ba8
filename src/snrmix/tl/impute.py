from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import wraps

import numpy as np
from anndata import AnnData

from snrmix import _checks
from snrmix._globals import Function, settled
from snrmix._log import logger
from snrmix._progress import displayed, stage
from snrmix.data.embedding_cache import CACHE_KEY, check_cache_free
from snrmix.data.results import Result
from snrmix.data.table import read_table
from snrmix.engine.losses import Losses
from snrmix.engine.options import Finetuning
from snrmix.plan.cost import check_memory
from snrmix.plan.depth import choose_depth, warn_of_other_depths
from snrmix.plan.features import read_features
from snrmix.plan.options import complete, read_options, training_names
from snrmix.plan.parts import plan_models, run_of
from snrmix.plan.presets import apply_preset
from snrmix.plan.source import doubt, read_source
from snrmix.tl._models import fit_models
from snrmix.tl._noted import noted
from snrmix.tl._report import report
from snrmix.tl.write import write


def completed(function: Function) -> Function:
    """Let arguments that a call does not give come from its preset, or from its ``finetuning``, and show its progress."""

    @wraps(function)
    def call(data, **given):
        preset = given.get("preset")
        with displayed():
            return function(data, **complete(given if preset is None else apply_preset(preset, given)))

    return call


@settled()
@noted
@completed
def impute(
    data,
    *,
    measured=None,
    layer: str | None = None,
    units: str = "auto",
    genes=None,
    image=None,
    image_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    table_key: str | None = None,
    use_rep: str | None = None,
    encoder="efficientnet_lite0",
    scales="auto",
    library_key: str | None = None,
    group_key: str | None = None,
    depth_key: str | None = None,
    share="auto",
    mix="snr",
    losses: Losses | None = None,
    kriging: bool = True,
    n_folds: int = 5,
    n_repeats: int = 1,
    validation=0.2,
    max_epochs: int | None = None,
    early_stopping: bool = True,
    fill: str = "auto",
    at_depth: str = "auto",
    key_added: str = "snrmix",
    random_state: int = 0,
    accelerator: str = "auto",
    devices="auto",
    copy: bool = False,
    finetune=False,
    finetuning: Finetuning | None = None,
    preset: str | None = None,
    **training,
):
    """Impute expression of a section from its histology and its measured spots.

    The H&E around every site is embedded at several scales, squidpy builds the spatial graph of the measured spots, and
    networks learn expression from histology on this very section, each on the measured spots outside its fold, with mixup
    between a spot and a nearby spot of similar expression (SNR-ST-Mix, arXiv:2606.08712). Kriging by component in space
    and image adds what the measured neighbours tell. Both are stacked per gene by their out-of-fold values, and the
    out-of-fold residuals calibrate the uncertainty.

    Parameters
    ----------
    data
        AnnData with ``obsm["spatial"]`` (x, y in full-resolution pixels), or SpatialData. Expression is counts or
        log-normalised values, sparse or dense.
    measured
        Which spots have trustworthy expression: a boolean obs column, or a boolean array. ``None``: those with at least
        one count, no NaN and, where the column exists, ``in_tissue == 1``. Values of other spots never influence anything.
    layer
        Layer with the expression; ``None`` for ``X``.
    units
        ``"counts"`` (normalised to 10,000 per spot over all genes, log1p), ``"log"`` (used as they are), or ``"auto"``:
        integers are counts; ``uns["log1p"]`` or values below 20 are log.
    genes
        Boolean var column, list of names, number of genes of highest mean on the measured spots, a list of that number
        and further names (``[500, "ERBB2"]``), or ``None`` for all.
    image
        Path, array (y, x, channels), dask array or DataArray in the pixels of ``obsm["spatial"]``, or a dict of them by
        library. ``None``: ``uns["spatial"][library]``, or the SpatialData image of highest resolution.
    image_key
        Which image of ``uns["spatial"][library]["images"]`` or of the SpatialData to use.
    um_per_px
        Micrometres per unit of ``obsm["spatial"]``, where it is known better than the array tells; a dict by library where
        they differ.
    table_key
        Table of the SpatialData.
    use_rep
        Features that are already in ``obsm``, instead of an image.
    encoder, scales
        See `snrmix.pp.embed_histology`.
    library_key
        obs column that tells libraries (slides) apart; default ``"library_id"`` where it exists, or the region key of a
        SpatialData table. Spots of different libraries are never neighbours.
    group_key
        obs column that names what libraries go together, such as the patient or donor. Scores, weights and intervals of
        libraries without measured spots then come from leaving out all libraries of a group.
    depth_key
        obs column with counts per spot. For log values it says what depth alone explains; without it ``total_counts`` and
        the like are looked for. At unmeasured spots, where it has numbers, predictions and intervals are for that depth
        instead of the one that is predicted there.
    share
        ``"auto"``: each measured library has its own model, and there is one of all of them; the two are weighed per library
        and gene by their out-of-fold values, and a library that gains nothing keeps its own. ``False``: each library has
        its own model, and its result is that of a call on this library alone, but for a number of ``genes``, which are
        chosen over all libraries, and the patch size of a library without an array. ``True``: one model of all libraries.
        In any case, libraries without measured spots (but with ``share=False`` also those with fewer than 20) get a model
        of all measured ones, scored on whole libraries that it has not seen.
    mix
        ``"snr"``, ``"snr_expression"``, ``"mixup"``, ``"mixup_without_hesitation"``, ``"cmixup"``, ``"rcmixup"``,
        ``"cutmix"``, ``"cellmix"``, ``"puzzlemix"``, ``"none"``, or a strategy such as ``snrmix.SNRMixing(k=20)``.
    losses
        Weights of the loss terms, see `snrmix.Losses`.
    kriging
        ``False`` gives the networks alone.
    n_folds
        Folds of the measured spots. 1 holds out ``validation`` instead. Where unmeasured spots lie far from measured ones,
        folds hold out compact groups of spots at such distances.
    n_repeats
        How often the spots are split into folds for the networks: more repeats, more networks in the mean, more time.
    validation
        With ``n_folds=1``: share of the measured spots that is held out for early stopping and scores, or a boolean obs
        column that marks them.
    max_epochs, early_stopping
        Length of the training, by default 80, or 30 with ``finetune``; the best epoch of a network is chosen by spots
        that it is not scored on.
    fill
        ``"unmeasured"``: observed values at measured spots, predictions elsewhere. ``"all"``: predictions at every
        spot, those at measured spots out-of-fold, so that the layer is denoised and of one kind. ``"auto"``:
        ``"unmeasured"`` when ``measured`` leaves a spot unmeasured, else ``"all"``.
    at_depth
        Counts are noisier and their logarithms lower where a spot is shallow. ``"spot"``: the value as it would be observed
        at that spot. ``"typical"``: as if every spot had the median depth of the measured ones, so that maps show no depth.
        ``"auto"``: ``"typical"`` for ``fill="all"``, else ``"spot"``, as the observed values in the layer are.
    key_added
        Name of the results.
    random_state
        Seed. Row and gene order of ``data`` do not matter, and no global random state is touched.
    accelerator, devices
        As for ``lightning.Trainer``.
    finetune
        ``True`` trains the encoder too, on mixed patches; ``"last"`` its last block. See the page on fine-tuning.
    finetuning
        Options of that, see `snrmix.Finetuning`; single ones can also be given by name.
    preset
        ``"paper"`` or ``"authors_code"``: every setting of the published recipe. Arguments given beside it win;
        ``finetuning`` replaces all of its options of the training.
    copy
        Return a modified copy of the AnnData (of the table, for SpatialData) and leave ``data`` alone.
    **training
        Other fields of `snrmix.Training`, such as ``learning_rate`` or ``hidden``.

    Returns
    -------
    ``None``, or the modified copy. Sets, for ``key_added="snrmix"``,

    ``layers["snrmix"]``
        float32, (n_obs, n_vars): log1p(counts per 10,000), or the units of the given log values. NaN for genes left out
        by ``genes``; genes seen in fewer than 5 measured spots get their mean.
    ``layers["snrmix_sd"]``
        float32: half the width of the calibrated 90 % interval for the value that would be observed, divided by 1.645;
        0 where the layer holds the observed value. See `snrmix.tl.interval`.
    ``var["snrmix_pearson" | "snrmix_mse" | "snrmix_explained"]``
        Out-of-fold scores per gene, of values as observed at the spot: Pearson correlation, mean squared error, and share of
        the mean's squared error that is explained.
    ``var["snrmix_pearson_given_depth" | "snrmix_explained_given_depth"]``
        The same beyond what the gene's mean share of the counts and the depth of the spot say; NaN where depth is unknown.
    ``var["snrmix_reliable"]``
        Genes whose map may be looked at: predicted better than by the mean and better than by depth alone, on compact
        groups of spots, at a false discovery rate of 5 %.
    ``var["snrmix_beats_baselines"]``
        Genes with a lower out-of-fold error than the mean, spatial kNN and ridge each, at a false discovery rate of 5 %.
    ``var["snrmix_modelled"]``
        Genes that were modelled.
    ``var["snrmix_weight_network" | "snrmix_weight_kriging" | "snrmix_weight_rates"]``
        Weights in the stack, per gene: of the networks, of kriging of log values, and of kriging of rates apart from depth.
    ``var["snrmix_calibration"]``
        Which row of ``uns["snrmix"]["calibration"]`` a gene's intervals are made with; -1 for genes that were not
        modelled. With several models it is in ``varm``, a column per name of ``uns["snrmix"]["models"]``.
    ``obs["snrmix_measured"]``
        Which spots were taken as measured.
    ``obs["snrmix_depth"]``
        Depth, in counts, that predictions assume of a spot: predicted (out-of-fold at measured spots), or that of
        ``depth_key`` at unmeasured ones. Not there where depth is unknown.
    ``obs["snrmix_fold"]``
        In which fold a measured spot was held out; -1 for other spots.
    ``obs["snrmix_model"]``
        With several models, the one that predicts a spot: its library, ``"shared"``, or ``"other slides"``.
    ``uns["snrmix"]``
        Parameters, seed, versions, units, warnings, images and their scale, training history and a table of scores of method and
        baselines; for several libraries also of each, in ``uns["snrmix"]["libraries"]``. Scores in ``var`` are then means over the
        libraries with measured spots, and a gene is reliable when it is so in every one of them.
    ``obsm["snrmix_errors"]``, ``varm["snrmix_errors"]``
        How errors go together, for `snrmix.tl.draws`.
    ``obsm["X_histology"]``
        The embedding, reused by the next call when image, encoder and scales are unchanged.

    Raises
    ------
    KeyError, ValueError, TypeError
        When the input cannot be right; the message names the key and says what to do. ``data`` is then unchanged.

    Examples
    --------
    >>> adata = snrmix.datasets.synthetic_tissue()
    >>> snrmix.tl.impute(adata)
    >>> adata.layers["snrmix"].shape == adata.shape
    True
    """
    _checks.arguments("impute", training, ARGUMENTS, training_names(finetune))
    _checks.flag("copy", copy)
    _checks.choice("at_depth", at_depth, ("auto", "spot", "typical"))
    training |= {"max_epochs": max_epochs, "early_stopping": early_stopping, "devices": devices}
    options = read_options(
        encoder=encoder, scales=scales, use_rep=use_rep, share=share, mix=mix, losses=losses, kriging=kriging,
        n_folds=n_folds, n_repeats=n_repeats, validation=validation, random_state=random_state, accelerator=accelerator,
        finetune=finetune, finetuning=finetuning, training=training, preset=preset,
    )  # fmt: skip
    check_output(read_table(data, table_key), fill, key_added)
    source = read_source(
        data, measured=measured, layer=layer, units=units, genes=genes, image=image, image_key=image_key,
        um_per_px=um_per_px, table_key=table_key, use_rep=use_rep, library_key=library_key,
        depth_key=depth_key, group_key=group_key, need_features=not options.settings.kriging or options.finetuning is not None,
    )  # fmt: skip
    if source.located is not None:
        check_cache_free(source.table)
    fill = choose_fill(fill, measured is not None, source.is_measured, options.n_folds)
    parts = plan_models(source, options)
    doubt(source)
    at_depth, typical = choose_depth(at_depth, fill, parts)
    warn_of_other_depths(source, parts, depth_key)
    settings = [
        replace(part.settings(options), typical_depth=depth) for part, depth in zip(parts, typical, strict=True)
    ]
    elsewhere = any(part.elsewhere for part in parts)
    features = read_features(source, options, run_of(source, options, parts), alike=elsewhere)
    models = fit_models(parts, settings, features, options)
    parameters = {
        "measured": measured if isinstance(measured, str) else "array" if measured is not None else None,
        "layer": layer or "X",
        "units": units,
        "genes": genes if isinstance(genes, int | str) else None if genes is None else "list",
        "use_rep": use_rep,
        "encoder": features.record["encoder"] if features.record else None,
        "share": options.share,
        "mix": settings[0].mixing if len(parts) == 1 else options.settings.mixing,
        "losses": options.settings.losses,
        "kriging": options.settings.kriging,
        "finetune": finetune,
        "training": options.settings.training,
        "n_folds": n_folds,
        "n_repeats": n_repeats,
        "validation": validation,
        "fill": fill,
        "at_depth": at_depth,
        "depth_key": depth_key,
        "group_key": group_key,
        "random_state": options.settings.seed,
        **({"preset": preset} if preset is not None else {}),
    }
    result = source.table.copy() if copy else source.table
    with stage("writing"):
        write(result, source, features, models, fill, key_added, parameters, typical)
    try:
        report(source, models, key_added, fill, at_depth)
    except (
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # the result is there, whatever is said of it
        logger.warning("the result is stored, but could not be summed up: %r.", error)
    return result if copy else None


ARGUMENTS = [name for name in inspect.signature(impute).parameters if name not in ("data", "training")]


def check_output(table: AnnData, fill: str, key: str) -> None:
    """Refuse results that cannot be stored.

    Raises
    ------
    ValueError
        For an unknown ``fill``, a name that is taken or is none, or layers that do not fit into memory.
    """
    _checks.choice("fill", fill, ("auto", "unmeasured", "all"))
    Result(table, key).check_free(reserved=CACHE_KEY)
    check_memory(table)


def choose_fill(fill: str, given: bool, is_measured: np.ndarray, n_folds: int) -> str:
    """What goes into the layer at measured spots.

    Raises
    ------
    ValueError
        For ``"all"`` with one fold: most measured spots would have no out-of-fold value.
    """
    if fill == "auto":
        fill = "unmeasured" if given and not is_measured.all() else "all"
        logger.info("fill=%r: %s.", fill, {
            "unmeasured": "observed values at measured spots, predictions elsewhere",
            "all": "predictions at every spot, out-of-fold at measured ones",
        }[fill])  # fmt: skip
    if fill == "all" and n_folds == 1:
        raise ValueError(
            "fill='all' needs out-of-fold values at every measured spot: use n_folds=2 or more, or mark unmeasured spots with measured=."
        )
    return fill
