"""Small files of data for `toy_suite.Push`."""

import numpy as np


def make_arrays(seed=0):
    """Two episodes of three rows for `toy_suite.Push`."""
    rng = np.random.default_rng(seed)
    ends = np.array([False, False, True] * 2)
    return {
        'observations': rng.normal(size=(6, 3)).astype(np.float32),
        'actions': rng.uniform(-2, 2, (6, 1)).astype(np.float32),
        'rewards': rng.normal(size=6).astype(np.float32),
        'masks': np.array([1, 0, 1, 1, 1, 1], np.float32),
        'terminals': ends,
    }


def write(path, **changes):
    """Writes a valid file, apart from `changes`; an array changed to None is left out."""
    arrays = {**make_arrays(), **changes}
    np.savez(path, **{key: rows for key, rows in arrays.items() if rows is not None})
    return path
