"""The method as an object: fitted to one object, kept, and asked about others."""

from __future__ import annotations

import inspect
import os
from dataclasses import fields

import numpy as np
import pandas as pd
import torch

from snrmix._log import logger
from snrmix._names import closest, listing
from snrmix.data.embedding import compute_embedding
from snrmix.data.embedding_cache import read_cache, same_encoder, site_hashes
from snrmix.data.expression import read_measured
from snrmix.data.results import UNITS, versions
from snrmix.data.sites import Sites, read_sites, restrict_sites
from snrmix.data.table import read_representation, read_table
from snrmix.engine.fit import Member, finer, fit_section, stack_members
from snrmix.engine.folds import make_folds
from snrmix.engine.kriging.krige import krige_section
from snrmix.engine.network.crossfit import NetworkFit
from snrmix.engine.network.heads import Fitted
from snrmix.engine.network.targets import Targets
from snrmix.engine.options import Training
from snrmix.engine.section import Section
from snrmix.images.encoder import Encoder, on_device, probe
from snrmix.images.encoders import resolve_encoder
from snrmix.model.encoding import Encoding, adapted_scales, describe_encoding
from snrmix.model.networks import Seen, held_out_of, lean, mean_gap, network_pearson, one_network
from snrmix.model.saved import plain, read_model, table_of_record, table_to_record, write_model
from snrmix.plan.features import Features, read_features
from snrmix.plan.options import Options, choose_device, read_options
from snrmix.plan.parts import plan_model, read_part, run_of
from snrmix.plan.source import Source, read_source
from snrmix.tl.impute import impute

OUTPUT = ("data", "measured", "fill", "key_added", "copy", "share")  # of impute: no business of a model
TUNING = ("finetune", "finetuning", "preset")
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(impute).parameters.items()
    if name not in (*OUTPUT, *TUNING, "training")
}
READING = tuple(name for name in inspect.signature(read_source).parameters if name in DEFAULTS)
TRAINING = tuple(field.name for field in fields(Training))
FOLDS = 5  # of the measured spots of another section, where the model was fitted with a single split


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
        Names of the modelled genes, in the order of the columns that ``predict`` returns.
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
    """

    def __init__(self, **options):
        known = [*DEFAULTS, *(name for name in TRAINING if name not in DEFAULTS)]
        for name in options:
            if name in TUNING:
                raise ValueError(f"{name}= is for snrmix.tl.impute: SNRMix keeps networks on frozen features alone.")
            if name not in known:
                raise TypeError(
                    f"SNRMix() got an unexpected keyword argument {name!r}.{closest(name, known)} Options are those of "
                    f"snrmix.tl.impute, but for its output: {listing(known, 50)}."
                )
        self.options = {**DEFAULTS, **options}
        self._options()
        self._network: NetworkFit | None = None
        self._encoder: Encoder | None = None
        self._has_own_encoder = self._is_loaded = False

    def __repr__(self):
        state = "not fitted" if self._network is None else f"{len(self.genes)} genes, {self.units}"
        return f"SNRMix({state})"

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
        options = self.options
        checked = self._options(options["encoder"])
        source = read_source(data, measured=measured, need_features=True, **{name: options[name] for name in READING})
        part = plan_model(source, checked, np.unique(source.sites.library[source.is_measured]))
        settings = part.settings(checked)
        features = read_features(source, checked, run_of(source, checked, [part]))
        section, encoder = part.section(features), checked.encoder
        fit = fit_section(section, part.folds, settings)

        self._network, self._encoder = lean(fit.network), encoder
        self._has_own_encoder = encoder is not None and not isinstance(options["encoder"], str | os.PathLike)
        self.encoding = describe_encoding(features, part.sites, options["use_rep"])
        self._seen = Seen(site_hashes(part.sites)[part.measured], held_out_of(part.folds, section))
        self._input_units = part.expression.input_units
        self.units = UNITS[self._input_units]
        self.genes = np.asarray(source.table.var_names[part.expression.columns], dtype=str)
        self.scores = fit.scores
        table = fit.genes.assign(pearson_network=network_pearson(section, fit))
        self.gene_scores = table.set_axis(pd.Index(self.genes, name="gene"))
        return self

    def predict(
        self, data, *, measured=None, layer=None, units="auto", image=None, image_key=None, um_per_px=None,
        table_key=None, library_key=None,
    ) -> np.ndarray:  # fmt: skip
        """Expression at every site of an object, as a rule another section; it is not changed.

        Patches are cut at the physical size of those that the model was fitted to.

        Parameters
        ----------
        data
            AnnData or SpatialData with an image, or the features that ``use_rep`` named. Genes and counts are needed with
            ``measured`` only.
        measured
            Which spots have trustworthy expression, as for `snrmix.tl.impute`. It corrects the mean of each gene, is
            kriged, and stacked with what the networks see: measured spots get out-of-fold values. ``None``: the networks
            alone, the image is all they look at; at spots that they were trained on these values are too good.
        layer, units
            Where the expression of measured spots is, and its units, which must be those that the model was fitted to.
        image, image_key, um_per_px, table_key, library_key
            As for `snrmix.tl.impute`; they refer to ``data``.

        Returns
        -------
        numpy.ndarray
            float32, shape (n_obs, modelled genes), not negative; rows as in ``data``, columns as in ``genes``, in
            ``units``.

        Raises
        ------
        KeyError, ValueError, TypeError
            When the model is not fitted, or ``data`` does not suit it.
        """
        network = self._fitted()
        table = read_table(data, table_key, needs_genes=False)
        rows_measured = None if measured is None else read_measured(table, measured, layer)
        sites = read_sites(
            data, table_key=table_key, library_key=library_key, image=image, image_key=image_key, um_per_px=um_per_px,
            measured=rows_measured, with_images=self.encoding.use_rep is None,
        )  # fmt: skip
        if rows_measured is None:
            features, _ = self._features(table, sites)
            return sites.to_rows(np.maximum(network.predict(features), 0))
        source = Source(table, sites, rows_measured[sites.order], layer, units, self.genes.tolist())
        part = read_part(source, "", "shared", sites.libraries, range(len(sites.libraries)))
        self._check_units(part.expression.input_units)
        features, colour = self._features(table, sites)
        predicted = network.predict(features)
        own = self._unseen(sites, part.measured, features, predicted)
        section = part.section(Features(features, colour))
        columns = np.searchsorted(self.genes, np.asarray(table.var_names[part.expression.columns], dtype=str))
        predicted[:, columns] = self._with_measured(section, own[:, columns], predicted[:, columns])
        return sites.to_rows(np.maximum(predicted, 0))

    def save(self, folder, *, overwrite: bool = False) -> None:
        """Store the model in a folder: the networks as safetensors, everything else as JSON.

        Parameters
        ----------
        folder
            Path; made where it does not exist.
        overwrite
            Replace a model that is there.

        Raises
        ------
        ValueError
            When the model is not fitted, or the folder holds something already. What is there stays as it is.
        """
        network = self._fitted()
        arrays = {f"network.{name}": values.numpy() for name, values in network.fitted.weights.items()}
        arrays |= {
            "targets.mean": np.stack([target.mean for target in network.targets]),
            "targets.scale": np.array([target.scale for target in network.targets], float),
            "encoder_probe": self.encoding.probe,
            "seen.spots": self._seen.spots,
            "seen.held_out": self._seen.held_out,
        }
        if network.targets[0].basis is not None:
            arrays["targets.basis"] = np.stack([target.basis for target in network.targets])
        encoding = {f.name: plain(getattr(self.encoding, f.name)) for f in fields(Encoding) if f.name != "probe"}
        record = {
            "versions": versions(),
            "genes": self.genes.tolist(),
            "input_units": self._input_units,
            "encoding": encoding,
            "has_own_encoder": self._has_own_encoder,
            "options": plain(self.options),
            "scores": table_to_record(self.scores),
            "gene_scores": table_to_record(self.gene_scores),
        }
        write_model(folder, arrays, record, overwrite)

    @classmethod
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
            model._check_encoder()
        elif model._has_own_encoder:
            raise ValueError(
                f"the model was fitted with an encoder of your own, {model.encoding.encoder!r}, which is not stored: pass "
                "it to load(folder, encoder=...)."
            )
        return model

    def _restore(self, arrays: dict[str, np.ndarray], record: dict) -> None:
        weights = {
            name.removeprefix("network."): torch.from_numpy(values)
            for name, values in arrays.items()
            if name.startswith("network.")
        }
        means, scales, outputs = arrays["targets.mean"], arrays["targets.scale"], weights["head_bias"].shape[-1]
        bases, empty = arrays.get("targets.basis", [None] * len(means)), np.empty((0, outputs), np.float32)
        targets = [Targets(empty, *each) for each in zip(means, scales.tolist(), bases, strict=True)]
        unknown_sides = record["encoding"]["sides_um"] is None
        self._network = lean(NetworkFit(Fitted(weights, [], {}), targets, empty))
        self.encoding = Encoding(
            **{
                **record["encoding"],
                "probe": arrays["encoder_probe"],
                "scales": tuple(record["encoding"]["scales"]),
                "sides_um": None if unknown_sides else tuple(record["encoding"]["sides_um"]),
            }
        )
        self._seen = Seen(arrays["seen.spots"], arrays["seen.held_out"])
        self.genes, self._input_units = np.array(record["genes"], dtype=str), record["input_units"]
        self.units = UNITS[self._input_units]
        self.scores, self.gene_scores = (table_of_record(record[name]) for name in ("scores", "gene_scores"))
        self.options, self._is_loaded, self._has_own_encoder = record["options"], True, record["has_own_encoder"]

    def _options(self, encoder=None) -> Options:
        """What was said, checked."""
        names = [name for name in inspect.signature(read_options).parameters if name in self.options]
        wanted = [name for name in TRAINING if name not in names and self.options.get(name) is not None]
        training = {name: self.options[name] for name in wanted}
        given = {name: self.options[name] for name in names}
        return read_options(**{**given, "encoder": encoder, "share": True, "training": training})

    def _fitted(self) -> NetworkFit:
        if self._network is None:
            raise ValueError("the model is not fitted; call fit(data, measured=...) first, or SNRMix.load(folder).")
        return self._network

    def _features(self, table, sites: Sites) -> tuple[np.ndarray, np.ndarray]:
        """Features of all sites, made as those that the networks were trained on, and which are of colour."""
        use_rep = self.encoding.use_rep
        if use_rep is not None:
            features = read_representation(table, use_rep, sites.order)
            if features.shape[1] != self.encoding.width:
                raise ValueError(
                    f"obsm[{use_rep!r}] has {features.shape[1]} features, and the model was fitted to {self.encoding.width}: "
                    "make them in the same way."
                )
            return features, np.zeros(self.encoding.width, bool)
        self._encoder = self._encoder or resolve_encoder(self.options["encoder"])
        self._check_encoder()
        parts = []
        for code, scales in enumerate(adapted_scales(self.encoding, sites)):
            _, own = restrict_sites(sites, [code])
            embedding = compute_embedding(own, self._encoder, scales, self._device(), read_cache(table, own))
            parts.append(embedding.features)
        return np.concatenate(parts), embedding.colour_columns  # sites are sorted by library

    def _check_encoder(self) -> None:
        with on_device(self._encoder.function, self._device()):
            found = probe(self._encoder, self._device())
        if not same_encoder(self.encoding.probe, found):
            raise ValueError(
                f"encoder {self._encoder.name!r} is not the one that the model was fitted with, "
                f"{self.encoding.encoder!r}: it makes other features of the same patches. Pass that one to "
                "SNRMix.load(folder, encoder=...)."
            )

    def _device(self) -> str:
        return choose_device(self.options["accelerator"])

    def _check_units(self, units: str) -> None:
        if units != self._input_units:
            raise ValueError(
                f"the measured expression looks like {units}, and the model was fitted to {self._input_units}: pass layer= "
                f"with {self._input_units}, or units={self._input_units!r} if that is what it is."
            )

    def _unseen(self, sites: Sites, measured: np.ndarray, features: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Predictions for measured spots, those trained on from the networks that held them out, as in a cross-fit."""
        own, place = predicted[measured], self._seen.find(sites)[measured]
        held_out = self._seen.held_out[:, place] & (place >= 0)
        known = np.flatnonzero(held_out.any(0))
        trained = int((place >= 0).sum()) - len(known)
        if trained:
            logger.warning(
                "%d of the measured spots were trained on by every network, and values there are too good: fit with "
                "n_folds=2 or more, or use snrmix.tl.impute.", trained,
            )  # fmt: skip
        if not len(known):
            return own
        own[known] = 0
        for k, rows in enumerate(held_out):
            own[rows] += one_network(self._network, k).predict(features[measured[rows]])
        own[known] /= held_out.sum(0)[known, None]
        return own

    def _with_measured(self, section: Section, own: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Stack networks and kriging, shape (n, genes): out-of-fold at measured sites.

        Parameters
        ----------
        section
            Genes that were seen in enough of its measured spots.
        own, predicted
            Of the networks, at measured sites and at all.
        """
        n, options = len(section.measured), self.options
        count = min(options["n_folds"] if options["n_folds"] > 1 else FOLDS, n // 2)
        rng = np.random.default_rng(options["random_state"])
        folds = make_folds(section.positions, section.library, section.measured, count, 1, rng)
        gap, out_of_fold = section.expression - own, np.empty_like(own)
        for fold in folds:
            out_of_fold[fold.held_out] = own[fold.held_out] + mean_gap(gap[fold.train])
        members = {"network": Member(out_of_fold, predicted[section.unmeasured] + mean_gap(gap))}
        if options["kriging"]:
            kriged = krige_section(section, finer(folds, n), self._device())
            members["kriging"] = Member(kriged.out_of_fold, kriged.predicted)
        result = np.empty_like(predicted)
        _, result[section.measured], result[section.unmeasured] = stack_members(section, folds, np.arange(n), members)
        return result
