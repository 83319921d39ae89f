"""What other code gave: arrays in `data/<name>_golden.npz`, under `<case>/<kind>/<path>`."""

import pathlib

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

DATA = pathlib.Path(__file__).parent / 'data'


def golden(name, case):
    """Returns the arrays of a case as one nested dict."""
    with np.load(DATA / f'{name}_golden.npz') as file:
        names = {key.removeprefix(f'{case}/'): key for key in file if key.startswith(f'{case}/')}
        return unflatten_dict({path: file[key] for path, key in names.items()}, sep='/')


def assert_close(found, expected):
    """Each array of the tree `expected` is found, to a thousandth of its length."""
    found = flatten_dict({'': found})
    for path, value in flatten_dict({'': expected}).items():
        error = np.linalg.norm(found[path] - value)
        assert error < 1e-3 * np.maximum(np.linalg.norm(value), 1e-12), path


def hand_out(arrays):
    """Returns a substitute for a function of jax.random: it draws the array of the size asked."""
    of_size = {array.size: array for array in arrays}
    return lambda _, shape: of_size[np.prod(shape)].reshape(shape)
