"""A run's keys: one for each purpose."""

import jax
import numpy as np
import pytest

from utils.keys import PURPOSES, key_for


def test_every_seed_and_purpose_has_draws_of_its_own():
    draws = {
        float(jax.random.normal(key_for(seed, purpose)))
        for seed in range(5)
        for purpose in PURPOSES
    }
    assert len(draws) == 5 * len(PURPOSES)


def test_keys_stay_the_same_so_that_published_runs_can_be_repeated():
    for number, purpose in enumerate(('parameters', 'batches', 'exploration', 'evaluation')):
        expected = jax.random.fold_in(jax.random.PRNGKey(7), number)
        np.testing.assert_array_equal(key_for(7, purpose), expected)


def test_an_unknown_purpose_is_named_with_those_there_are():
    with pytest.raises(
        ValueError, match="purpose='dropout': unknown; use parameters, batches, exp"
    ):
        key_for(0, 'dropout')
