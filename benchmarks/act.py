"""Measures the time to choose one chunk of actions, at paper size: batch 1, from host to host.

    python -m benchmarks.act

`one sample` is the policy alone (N = 1): one pass of a network, or ten Euler steps. `acting` is the
best of the agent's N samples. Both use the agent's `policy()`, as runs do.
"""

import functools
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.common import OBSERVATION_DIM, new_agent, print_table, run, save, seconds
from experiments.methods import METHODS


def times_of_one_action(methods: list[str], repeats: int) -> list[dict[str, Any]]:
    """Returns a row per method; calls take turns, so noise hits all of them alike."""
    observation = np.zeros(OBSERVATION_DIM, np.float32)
    rng = jax.random.PRNGKey(0)
    calls = {}
    for method in methods:
        for kind, changes in (('one sample', {'num_samples': 1}), ('acting', {})):
            policy = new_agent(method, **changes).policy()
            calls[method, kind] = lambda policy=policy: np.asarray(
                policy.sample_actions(observation, rng)
            )
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for repeat in range(repeats + 1):
        for key, call in calls.items():
            took = seconds(call)
            if repeat:  # the first compiles
                times[key].append(took)
    median = functools.partial(np.median, axis=0)
    return [
        {
            'method': method,
            'h': new_agent(method).horizon_length,
            'N': new_agent(method).config.num_samples,
            'one sample, ms': float(1e3 * median(times[method, 'one sample'])),
            'acting, ms': float(1e3 * median(times[method, 'acting'])),
        }
        for method in methods
    ]


def main(_) -> None:
    rows = times_of_one_action(list(METHODS), flags.FLAGS.repeats)
    print_table(rows)
    save(flags.FLAGS.json, {'one_action': rows})


if __name__ == '__main__':
    flags.DEFINE_integer('repeats', 300, 'Calls of each; the median is reported.')
    run(main)
