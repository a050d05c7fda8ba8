"""One clustering from several of the same spots."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score


def consensus(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vote of several clusterings, and how many of them agree with it at each spot.

    The clustering most like the others (mean adjusted Rand index) says which clusters there are; those of each other one
    are matched to it so that most spots agree, and every spot goes where most put it.

    Parameters
    ----------
    labels
        Shape (clusterings, n), int from 0.

    Returns
    -------
    tuple
        Cluster, int, the largest first, and share of clusterings that agree, both of shape (n,).
    """
    labels = np.array([np.unique(one, return_inverse=True)[1] for one in labels])
    alike = np.array([[adjusted_rand_score(a, b) for b in labels] for a in labels])
    middle = labels[np.argmax(alike.mean(1))]
    votes = np.zeros((labels.shape[1], middle.max() + 1), int)
    for one in labels:
        together = np.zeros((one.max() + 1, middle.max() + 1), int)
        np.add.at(together, (one, middle), 1)
        matched = np.full(len(together), -1)
        own, other = linear_sum_assignment(-together)
        matched[own] = other
        voting = np.flatnonzero(matched[one] >= 0)  # a cluster without a counterpart votes for none
        votes[voting, matched[one[voting]]] += 1
    found = votes.argmax(1)
    size = np.bincount(found, minlength=votes.shape[1])
    rank = np.empty(len(size), int)
    rank[np.argsort(-size, kind="stable")] = np.arange(len(size))
    return rank[found], votes.max(1) / len(labels)
