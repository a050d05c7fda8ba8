"""All that is decided before a fit starts: options, sites, folds, models, cost."""
