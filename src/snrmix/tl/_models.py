"""Fitting of the models that a call needs."""

from __future__ import annotations

from snrmix._log import logger
from snrmix.engine.fit import Settings
from snrmix.plan.features import Features
from snrmix.plan.options import Options
from snrmix.plan.parts import Part
from snrmix.plan.sharing import shared_of
from snrmix.tl.write import Model


def fit_models(parts: list[Part], settings: list[Settings], features: Features, options: Options) -> list[Model]:
    """Fit one after the other; first the partner that several have, which is not a result by itself."""
    models, partner, shared = [], parts[0].partner, None
    number = len(parts) + (partner is not None)
    if partner is not None:
        logger.info("model 1 of %d: all libraries together, to be weighed with that of each.", number)
        shared = partner.stack(features, partner.settings(options))
    for part, how in zip(parts, settings, strict=True):
        if number > 1:
            logger.info("model %d of %d: %s.", len(models) + 1 + (partner is not None), number, part.name)
        models.append((part, part.fit(features, how, None if part.partner is None else shared_of(part, shared))))
    return models
