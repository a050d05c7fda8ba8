"""The method as an object: fitted to one object, kept, and asked about others."""

from __future__ import annotations

import inspect
import os
from dataclasses import fields

import numpy as np
import pandas as pd
from anndata import AnnData

from snrmix import _checks
from snrmix._globals import settled
from snrmix._progress import displayed
from snrmix.data.embedding_cache import site_hashes
from snrmix.data.expression import read_measured
from snrmix.data.results import UNITS, versions
from snrmix.data.sites import Sites, read_sites
from snrmix.data.table import read_table
from snrmix.engine.fit import fit_section
from snrmix.engine.network.crossfit import NetworkFit
from snrmix.engine.options import Training
from snrmix.images.encoder import Encoder
from snrmix.images.encoders import resolve_encoder
from snrmix.model.encoding import Encoding, describe_encoding
from snrmix.model.errors import ImageErrors, fit_image_errors, say_how_good
from snrmix.model.networks import NO_DEPTH, Seen, held_out_of, network_pearson, unseen, with_measured
from snrmix.model.result import JointErrors, Predicted, as_result
from snrmix.model.saved import plain, read_model, table_of_record, table_to_record, write_model
from snrmix.plan.features import Features, read_features
from snrmix.plan.options import Options, choose_device, read_options
from snrmix.plan.parts import plan_model, read_part, run_of
from snrmix.plan.source import Source, doubt, read_source
from snrmix.tl.impute import impute
from snrmix.tl.write import writable

OUTPUT = ("data", "measured", "fill", "key_added", "copy", "share", "at_depth")  # of impute: no business of a model
TUNING = ("finetune", "finetuning", "preset")
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(impute).parameters.items()
    if name not in (*OUTPUT, *TUNING, "training")
}
READING = tuple(name for name in inspect.signature(read_source).parameters if name in DEFAULTS)
ASKED = tuple(name for name in inspect.signature(read_options).parameters if name in DEFAULTS and name != "encoder")
TRAINING = tuple(field.name for field in fields(Training))


class SNRMix:
    """What `snrmix.tl.impute` fits, as an object that can be kept and asked about other sections.

    Parameters
    ----------
    **options
        Those of `snrmix.tl.impute`, but for ``measured``, what concerns its output, and fine-tuning. All libraries share
        one model. ``image`` and what else says where things are refer to the object that is fitted.

    Attributes
    ----------
    genes : numpy.ndarray
        Names of the modelled genes, in the order of the columns that ``predict`` gives.
    units : str
        Of the predictions: log1p(counts per 10,000), or the units of the log values that were given.
    scores : pandas.DataFrame
        Out-of-fold scores per method on the measured spots, see `snrmix.tl.impute`: ``"network"`` is the image alone,
        ``"snrmix"`` image and measured neighbours.
    gene_scores : pandas.DataFrame
        The same per gene, of ``"snrmix"``; ``pearson_network`` is of the image alone.
    encoding : snrmix.model.encoding.Encoding
        Encoder and physical size of the patches.

    Raises
    ------
    TypeError, ValueError
        For unknown options, or values that are out of range.

    Examples
    --------
    >>> model = snrmix.SNRMix(genes=200).fit(adata, measured="measured")
    >>> model.save("model")
    >>> predicted = snrmix.SNRMix.load("model").predict(other)
    >>> snrmix.pl.compare(predicted, predicted.var_names[:3])
    """

    @settled()
    def __init__(self, **options):
        for name in options:
            if name in TUNING:
                raise ValueError(f"{name}= is for snrmix.tl.impute: SNRMix keeps networks on frozen features alone.")
        others = [name for name in TRAINING if name not in DEFAULTS]
        _checks.arguments("SNRMix", [name for name in options if name not in DEFAULTS], DEFAULTS, others)
        self.options = {**DEFAULTS, **options}
        self._checked()
        self._network: NetworkFit | None = None
        self._errors: ImageErrors | None = None
        self._encoder: Encoder | None = None
        self._has_own_encoder = self._is_loaded = False

    def __repr__(self):
        state = "not fitted" if self._network is None else f"{len(self.genes)} genes, {self.units}"
        return f"SNRMix({state})"

    @settled()
    @displayed()
    def fit(self, data, *, measured=None) -> SNRMix:
        """Fit networks to the measured spots of an object, which is not changed.

        Parameters
        ----------
        data
            AnnData or SpatialData, as for `snrmix.tl.impute`. An embedding that is stored in it is reused.
        measured
            As there.

        Returns
        -------
        SNRMix
            The object itself.

        Raises
        ------
        KeyError, ValueError, TypeError
            As `snrmix.tl.impute`, and for an object with neither image nor ``use_rep``. The model is then as before.
        """
        if self._is_loaded:
            raise ValueError("a loaded model cannot be fitted again; make a new one: snrmix.SNRMix(...).fit(data).")
        options, checked = self.options, self._checked(self.options["encoder"])
        source = read_source(data, measured=measured, need_features=True, **{name: options[name] for name in READING})
        part = plan_model(source, checked, np.unique(source.sites.library[source.is_measured]))
        settings = part.settings(checked)
        doubt(source)
        features = read_features(source, checked, run_of(source, checked, [part]))
        section, encoder = part.section(features), checked.encoder
        fit = fit_section(section, part.folds, settings)

        self._network, self._encoder = NetworkFit.from_arrays(fit.network.to_arrays()), encoder
        self._has_own_encoder = encoder is not None and not isinstance(options["encoder"], str | os.PathLike)
        self.encoding = describe_encoding(features, part.sites, options["use_rep"])
        self._seen = Seen(site_hashes(part.sites)[part.measured], held_out_of(part.folds, section))
        self._input_units = part.expression.input_units
        self.units = UNITS[self._input_units]
        self.genes = np.asarray(source.table.var_names[part.expression.columns], dtype=str)
        self.scores, table = fit.scores, fit.genes.assign(pearson_network=network_pearson(section, fit, part.folds))
        self.gene_scores = table.set_axis(pd.Index(self.genes, name="gene"))
        self._errors = fit_image_errors(section, part.folds, fit)
        say_how_good(self.scores, self.gene_scores, len(fit.scored))
        return self

    @settled()
    def predict(
        self, data, *, measured=None, layer=None, units="auto", image=None, image_key=None, um_per_px=None,
        table_key=None, library_key=None, at_depth="spot", key_added="snrmix",
    ) -> AnnData:  # fmt: skip
        """Expression at every site of an object, as a rule another section; it is not changed.

        Patches are cut at the physical size of those that the model was fitted to.

        Parameters
        ----------
        data
            AnnData or SpatialData with an image, or the features of ``use_rep``. Genes are needed with ``measured`` only.
        measured
            Spots with trustworthy expression, as for `snrmix.tl.impute`. It corrects the mean of each gene, is kriged, and
            stacked with what the networks see: measured spots get out-of-fold values. ``None``: the networks, and so the
            image, alone; at spots that they were trained on these values are too good.
        layer, units
            Where the expression of measured spots is, and its units, which must be those that the model was fitted to.
        image, image_key, um_per_px, table_key, library_key
            As for `snrmix.tl.impute`; they refer to ``data``.
        at_depth
            ``"spot"``: values as they would be observed, at the depth that spots of such looks (or places) have.
            ``"typical"``: at the median depth of the spots that were fitted to, or of the measured ones here.
        key_added
            Name of the result.

        Returns
        -------
        anndata.AnnData
            A new object of the sites, in the order of ``data``, and the modelled genes: ``X`` and ``layers["snrmix"]`` are
            predictions, not negative, float32, in ``units``; ``layers["snrmix_sd"]`` their uncertainty as in
            `snrmix.tl.impute`; ``var`` has the scores of the fit, ``uns["snrmix"]`` its parameters and score table; ``obs``,
            positions and images are those of ``data``. `snrmix.tl.interval`, `snrmix.tl.draws` and the plots take it like
            any other result; for a plain array take ``.X``. Without ``measured`` the uncertainty is that of spots held out in
            the sections that were fitted to, and too small where another slide looks different.

        Raises
        ------
        KeyError, ValueError, TypeError
            When the model is not fitted, or ``data`` does not suit it.
        """
        self._fitted()
        _checks.choice("at_depth", at_depth, ("spot", "typical"))
        key = _checks.key_name("key_added", key_added)
        table = read_table(data, table_key, needs_genes=False)
        rows_measured = None if measured is None else read_measured(table, measured, layer)
        sites = read_sites(
            data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px,
            measured=rows_measured, with_images=self.encoding.use_rep is None,
        )  # fmt: skip
        if rows_measured is None:
            found = self._from_image(self._features(table, sites)[0], np.zeros(len(sites), bool), at_depth)
        else:
            source = Source(table, sites, rows_measured[sites.order], layer, units, self.genes.tolist())
            found = self._from_both(source, at_depth)
        names = ("scores", "gene_scores", "options")
        model = {**{name: getattr(self, name) for name in names}, "input_units": self._input_units}
        model["options"] = writable({**model["options"], "layer": layer or "X"})
        return as_result(table, sites, self.genes, found, key, model)

    def _from_image(self, features: np.ndarray, measured: np.ndarray, at_depth: str) -> Predicted:
        """What the networks alone say, of all sites."""
        values, errors, typical = np.maximum(self._network.predict(features), 0), self._errors, None
        if at_depth == "typical":
            typical = errors and errors.typical
            if typical is None:
                raise ValueError(NO_DEPTH)
            values = typical.move(values)
        if errors is None:
            return Predicted(values, None, None, None, measured, at_depth, None)
        known = errors if typical is None else typical
        sd, depth = known.calibration.sd(known.calibration.scale(values, [])), typical and typical.depth
        joint = JointErrors(known.joint, np.arange(len(self.genes)), np.zeros(len(values), int))
        return Predicted(values, sd, known.calibration, known.calibration.group, measured, at_depth, depth, joint)

    def _from_both(self, source: Source, at_depth: str) -> Predicted:
        """What networks and measured spots say; genes that hardly any of these has are left to the networks."""
        sites, network = source.sites, self._network
        part = read_part(source, "", "shared", sites.libraries, range(len(sites.libraries)))
        self._check_units(part.expression.input_units)
        features, colour = self._features(source.table, sites)
        predicted = network.predict(features)
        own = unseen(network, self._seen, sites, part.measured, features, predicted)
        section = part.section(Features(features, colour))
        columns = np.searchsorted(self.genes, np.asarray(source.table.var_names[part.expression.columns], dtype=str))
        how = {"seed": self.options["random_state"], "device": self._device(), "typical": at_depth == "typical"}
        how |= {name: self.options[name] for name in ("n_folds", "kriging")}
        both = with_measured(section, own[:, columns], predicted[:, columns], **how)
        alone = self._from_image(features, part.is_measured, at_depth)
        values, row = alone.values.copy(), np.full(len(self.genes), -1)
        values[:, columns], row[columns] = np.maximum(both.values, 0), both.calibration.group
        sd = np.full_like(values, np.nan) if alone.sd is None else alone.sd
        sd[:, columns] = both.sd
        together = np.full(len(values), both.together.max() + 1)
        together[part.measured] = both.together
        return Predicted(
            values, sd, both.calibration, row, part.is_measured, at_depth, both.typical_depth,
            JointErrors(both.joint, columns, together),
        )  # fmt: skip

    @settled()
    def save(self, folder, *, overwrite: bool = False) -> None:
        """Store the model in a folder: the networks as safetensors, everything else as JSON.

        Parameters
        ----------
        folder
            Path; made where it does not exist.
        overwrite
            Replace a model.

        Raises
        ------
        ValueError
            When the model is not fitted, or the folder holds something already. What is there stays as it is.
        """
        network = self._fitted()
        arrays = network.to_arrays() | self.encoding.to_arrays() | self._seen.to_arrays()
        arrays |= self._errors.to_arrays() if self._errors is not None else {}
        record = {
            "versions": versions(),
            "genes": self.genes.tolist(),
            "input_units": self._input_units,
            "encoding": self.encoding.to_record(),
            "has_own_encoder": self._has_own_encoder,
            "options": plain(self.options),
            "scores": table_to_record(self.scores),
            "gene_scores": table_to_record(self.gene_scores),
        }
        write_model(folder, arrays, record, overwrite)

    @classmethod
    @settled()
    def load(cls, folder, *, encoder=None) -> SNRMix:
        """Read a model that ``save`` wrote. Its predictions are those of the model that was saved, bit for bit.

        Parameters
        ----------
        folder
            Path.
        encoder
            The encoder, where the model was fitted with a module or function of the user's own, which is not stored.

        Raises
        ------
        ValueError
            When the folder is no such model, lacks a part, was written by a later version, or needs another ``encoder``.
        """
        arrays, record = read_model(folder)
        model = cls()
        try:
            model._restore(arrays, record)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the model in {str(folder)!r} is damaged ({error!r}); save it again.") from error
        if encoder is not None:
            model._encoder = resolve_encoder(encoder)
            model.encoding.check(model._encoder, model._device())
        elif model._has_own_encoder:
            raise ValueError(
                f"the model was fitted with an encoder of your own, {model.encoding.encoder!r}, which is not stored: pass "
                "it to load(folder, encoder=...)."
            )
        return model

    def _restore(self, arrays: dict[str, np.ndarray], record: dict) -> None:
        self._network, self._seen = NetworkFit.from_arrays(arrays), Seen.from_arrays(arrays)
        self._errors = ImageErrors.from_arrays(arrays)
        self.encoding = Encoding.from_saved(arrays, record["encoding"])
        self.genes, self._input_units = np.array(record["genes"], dtype=str), record["input_units"]
        self.units = UNITS[self._input_units]
        self.scores, self.gene_scores = (table_of_record(record[name]) for name in ("scores", "gene_scores"))
        here = "cpu" if record["options"]["accelerator"] == "cpu" else "auto"  # the GPU it had may be elsewhere
        self.options, self._has_own_encoder = {**record["options"], "accelerator": here}, record["has_own_encoder"]
        self._is_loaded = True

    def _checked(self, encoder=None) -> Options:
        """The options, checked; without ``encoder`` none is resolved."""
        asked = {name: self.options[name] for name in ASKED}
        training = {name: self.options[name] for name in TRAINING if self.options.get(name) is not None}
        return read_options(**asked, encoder=encoder, share=True, training=training)

    def _fitted(self) -> NetworkFit:
        if self._network is None:
            raise ValueError("the model is not fitted; call fit(data, measured=...) first, or SNRMix.load(folder).")
        return self._network

    def _device(self) -> str:
        return choose_device(self.options["accelerator"])

    def _features(self, table, sites: Sites) -> tuple[np.ndarray, np.ndarray]:
        if self.encoding.use_rep is None and self._encoder is None:
            self._encoder = resolve_encoder(self.options["encoder"])
        return self.encoding.features(table, sites, self._encoder, self._device())

    def _check_units(self, units: str) -> None:
        if units != self._input_units:
            raise ValueError(
                f"the measured expression looks like {units}, and the model was fitted to {self._input_units}: pass layer= "
                f"with {self._input_units}, or units={self._input_units!r} if that is what it is."
            )
