from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.embedding import CACHE_KEY, DEFAULT_SCALES, choose_device, write_cache
from snrmix.engine.conformal import LEVELS
from snrmix.engine.fit import SectionFit, Settings, fit_section
from snrmix.engine.losses import Losses
from snrmix.engine.mix import resolve_mixing
from snrmix.engine.network import Training
from snrmix.prepare import Prepared, prepare
from snrmix.sites import read_table
from snrmix.splits import choose_folds, settle_neighbours
from snrmix.tl.write import UNITS, check_memory, full_layer, var_column, versions, writable


def impute(
    data,
    *,
    measured=None,
    layer: str | None = None,
    units: str = "auto",
    genes=None,
    image=None,
    image_key: str | None = None,
    um_per_px: float | None = None,
    table_key: str | None = None,
    use_rep: str | None = None,
    encoder="efficientnet_lite0",
    scales=DEFAULT_SCALES,
    library_key: str | None = None,
    mix="snr",
    losses: Losses | None = None,
    kriging: bool = True,
    n_folds: int = 5,
    n_repeats: int = 1,
    validation=0.2,
    max_epochs: int = 80,
    early_stopping: bool = True,
    fill: str = "auto",
    key_added: str = "snrmix",
    random_state: int = 0,
    accelerator: str = "auto",
    devices="auto",
    copy: bool = False,
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
        one count and, where the column exists, ``in_tissue == 1``. Values of other spots never influence anything.
    layer
        Layer with the expression; ``None`` for ``X``.
    units
        ``"counts"`` (normalised to 10,000 per spot over all genes, log1p), ``"log"`` (used as they are), or ``"auto"``:
        integers are counts; ``uns["log1p"]`` or values below 20 are log.
    genes
        Boolean var column, list of names, number of genes of highest mean on the measured spots, or ``None`` for all.
    image
        Path, array (y, x, channels), dask array or DataArray in the pixels of ``obsm["spatial"]``, or a dict of them by
        library. ``None``: ``uns["spatial"][library]``, or the SpatialData image of highest resolution.
    image_key
        Which image of ``uns["spatial"][library]["images"]`` or of the SpatialData to use.
    um_per_px
        Micrometres per unit of ``obsm["spatial"]``, where it is known better than the array tells.
    table_key
        Table of the SpatialData.
    use_rep
        Features that are already in ``obsm``, instead of an image.
    encoder, scales
        See `snrmix.pp.embed_histology`.
    library_key
        obs column that tells libraries (slides) apart; default ``"library_id"`` where it exists, or the region key of a
        SpatialData table. Spots of different libraries are never neighbours.
    mix
        ``"snr"``, ``"mixup"``, ``"none"``, or a strategy such as ``snrmix.SNRMixing(k=20)``.
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
        Length of the training; the best epoch of a network is chosen by spots that it is not scored on.
    fill
        ``"unmeasured"``: observed values at measured spots, predictions elsewhere. ``"all"``: predictions at every
        spot, those at measured spots out-of-fold, so that the layer is denoised and of one kind. ``"auto"``:
        ``"unmeasured"`` when ``measured`` leaves a spot unmeasured, else ``"all"``.
    key_added
        Name of the results.
    random_state
        Seed. Row and gene order of ``data`` do not matter, and no global random state is touched.
    accelerator, devices
        As for ``lightning.Trainer``.
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
        Out-of-fold scores per gene: Pearson correlation, mean squared error, and share of the mean's squared error that
        is explained.
    ``var["snrmix_reliable"]``
        Genes with a lower out-of-fold error than the mean, spatial kNN and ridge each, at a false discovery rate of 5 %.
    ``var["snrmix_modelled"]``
        Genes that were modelled.
    ``var["snrmix_weight_network" | "snrmix_weight_kriging"]``
        Weights of the two in the stack, per gene.
    ``var["snrmix_calibration"]``
        Which row of ``uns["snrmix"]["calibration"]`` a gene's intervals are made with; -1 for genes that were not modelled.
    ``obs["snrmix_measured"]``
        Which spots were taken as measured.
    ``uns["snrmix"]``
        Parameters, seed, versions, units, image scale, training history and a table of scores of method and baselines.
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
    mixing, seed, device = resolve_mixing(mix), _seed(random_state), choose_device(accelerator)
    options = training_options(
        training, max_epochs=max_epochs, early_stopping=early_stopping, accelerator=accelerator, devices=devices
    )
    losses = losses if losses is not None else Losses()
    if not isinstance(losses, Losses):
        raise TypeError(f"losses must be a snrmix.Losses, not {type(losses).__name__}.")
    for name, value in (("kriging", kriging), ("early_stopping", early_stopping), ("copy", copy)):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name}={value!r} must be True or False.")
    table = read_table(data, table_key)
    _check_output(table, fill, key_added)
    check_memory(table)
    prepared = prepare(
        data, measured=measured, layer=layer, units=units, genes=genes, image=image, image_key=image_key,
        um_per_px=um_per_px, table_key=table_key, use_rep=use_rep, library_key=library_key, encoder=encoder,
        scales=scales, device=device, need_features=not kriging,
    )  # fmt: skip
    fill = choose_fill(fill, measured is not None, prepared.is_measured, n_folds)
    folds = choose_folds(prepared, n_folds, n_repeats, validation, seed)
    mixing = settle_neighbours(mixing, folds, chosen=not isinstance(mix, str))
    settings = Settings(mixing, losses, options, kriging, seed, device)
    fit = fit_section(prepared.section, folds, settings)
    parameters = {
        "measured": measured if isinstance(measured, str) else "array" if measured is not None else None,
        "layer": layer or "X",
        "units": units,
        "genes": genes if isinstance(genes, int | str) else None if genes is None else "list",
        "use_rep": use_rep,
        "encoder": prepared.embedding.record["encoder"] if prepared.embedding else None,
        "mix": mixing,
        "losses": losses,
        "kriging": kriging,
        "training": options,
        "n_folds": n_folds,
        "n_repeats": n_repeats,
        "validation": validation,
        "fill": fill,
        "random_state": seed,
    }
    result = prepared.table.copy() if copy else prepared.table
    write(result, prepared, fit, fill, key_added, parameters)
    report(prepared, fit, key_added, fill)
    return result if copy else None


def training_options(extra: dict, **given) -> Training:
    """`Training` from keyword arguments.

    Raises
    ------
    TypeError, ValueError
        For an unknown name, or a value out of range.
    """
    known = [f.name for f in fields(Training)]
    for name in extra:
        if name not in known:
            raise TypeError(
                f"impute() got an unexpected keyword argument {name!r}.{closest(name, known)} Training options: {listing(known, 20)}."
            )
    return Training(**given, **extra)


def _seed(random_state) -> int:
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer) or random_state < 0:
        raise ValueError(f"random_state={random_state!r} must be a whole number from 0 up.")
    return int(random_state)


def _check_output(table, fill: str, key: str) -> None:
    """Refuse a name under which something else is stored already."""
    if fill not in ("auto", "unmeasured", "all"):
        raise ValueError(f"fill={fill!r}; choose 'auto', 'unmeasured' or 'all'.")
    if not isinstance(key, str) or not key or "/" in key:
        raise ValueError(f"key_added={key!r} must be a name without '/'.")
    ours = "calibration" in table.uns[key] if isinstance(table.uns.get(key), Mapping) else False
    if not ours and (key in table.uns or key in table.layers or key == CACHE_KEY):
        raise ValueError(f"key_added={key!r} is the name of something else in uns or layers; choose another name.")


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


def write(table, prepared: Prepared, fit: SectionFit, fill: str, key: str, parameters: dict) -> None:
    """Write results and provenance; everything is computed before the first assignment."""
    sites, expression, section = prepared.sites, prepared.expression, prepared.section
    blocks = [section.measured, section.unmeasured]
    observed = fill == "unmeasured"
    values = [section.expression if observed else fit.out_of_fold, fit.predicted]
    sds = [np.zeros_like(section.expression) if observed else fit.out_of_fold_sd, fit.predicted_sd]
    layers = {
        key: full_layer(table, sites, expression, blocks, values, expression.means),
        f"{key}_sd": full_layer(table, sites, expression, blocks, sds, expression.spreads),
    }
    columns = {name: var_column(table, expression, fit.genes[name].to_numpy()) for name in fit.genes}
    columns["modelled"] = var_column(table, expression, np.ones(len(expression.columns), bool))
    columns["calibration"] = var_column(table, expression, fit.calibration.group, missing=-1)
    record = writable(
        {
            "parameters": parameters,
            "versions": versions(),
            "units": UNITS[expression.input_units],
            "input_units": expression.input_units,
            "fill": fill,
            "image": image_record(prepared),
            "history": fit.network.fitted.history if fit.network is not None else {},
            "scores": fit.scores,
            "n_spots_scored": len(fit.scored),
            "calibration": {"low": fit.calibration.low, "high": fit.calibration.high, "levels": LEVELS},
            **fit.record,
        }
    )
    for name, values in layers.items():
        table.layers[name] = values
    for name in ("weight_network", "weight_kriging"):  # of an earlier call that had both
        table.var.drop(columns=f"{key}_{name}", errors="ignore", inplace=True)
    for name, column in columns.items():
        table.var[f"{key}_{name}"] = column
    table.obs[f"{key}_measured"] = sites.to_rows(prepared.is_measured)
    table.uns[key] = record
    if prepared.embedding is not None:
        write_cache(table, sites, prepared.embedding)


def image_record(prepared: Prepared) -> dict:
    """Scale of the section and sizes of the patches."""
    sites, embedding = prepared.sites, prepared.embedding
    record = {
        "libraries": list(sites.libraries),
        "um_per_px": sites.um_per_px,
        "pitch": sites.pitch,
        "scale_known": bool(np.isfinite(sites.um_per_px).all()),
    }
    if embedding is not None:
        record |= {name: embedding.record[name] for name in ("scales", "patch_side")}
    return record


def report(prepared: Prepared, fit: SectionFit, key: str, fill: str) -> None:
    """Say what was written, and how far to trust it."""
    scores, expression = fit.scores["mse_ratio"], prepared.expression
    baseline = scores[[name for name in scores.index if name not in ("snrmix", "network", "kriging")]].idxmin()
    logger.info(
        "out-of-fold MSE is %.3f of the mean's (best baseline, %s: %.3f); Pearson per gene %.2f in the median; "
        "%d of %d genes are reliably better than every baseline.",
        scores["snrmix"], baseline, scores[baseline], fit.genes["pearson"].median(),
        fit.genes["reliable"].sum(), len(fit.genes),
    )  # fmt: skip
    if scores["snrmix"] >= scores[baseline]:
        logger.warning("this is no better than %s here; see uns[%r]['scores'].", baseline, key)
    if len(expression.mean_columns):
        logger.info(
            "%d genes are seen in too few measured spots to be modelled and got their mean.",
            len(expression.mean_columns),
        )
    logger.info(
        "wrote layers[%r]: %d genes at %d measured and %d unmeasured spots, %s, fill=%r.",
        key, len(expression.columns), len(prepared.section.measured), len(prepared.section.unmeasured),
        UNITS[expression.input_units], fill,
    )  # fmt: skip
