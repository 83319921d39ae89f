"""Measures a robot's wait for a chunk: paper size, batch 1, from host to host.

    python -m benchmarks.latency

`policy` is one sample, `best of N` what the method plays. Each is computed by the agent, by the
program that `export.py` writes for jax, and, with requirements-export.txt, by the one for ONNX
Runtime. The three take turns and get new noise for every call. A robot at 20 Hz has 50 ms per
action. The measurement runs in a process with one core, then in one with all.
"""

import importlib.util
import itertools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np
from absl import flags

from agents.base import Agent
from benchmarks.common import OBSERVATION_DIM, Tables, new_agent, results_of, run, seconds
from training.export import programs, to_jax, to_onnx

FLAGS = flags.FLAGS
METHODS = ('DFP', 'MVP', 'QC-FQL', 'FQL', 'QC-BFN', 'BFN')
PERIOD = 0.05  # seconds; 20 Hz control
HAS_ONNX = all(map(importlib.util.find_spec, ('jax2onnx', 'onnxruntime')))


def calls_of(agent: Agent, name: str, cores: int) -> dict[str, Callable[[], Any]]:
    """Returns calls of the agent, as in evaluation, and of its exported program by runtime."""
    program, key = programs(agent)[name], jax.random.PRNGKey(0)
    sizes = {'b': 1, 'n': agent.config.num_samples}
    _, shape = ([sizes.get(str(axis), axis) for axis in x] for x in program.inputs.values())
    observation, rng = np.zeros((1, OBSERVATION_DIM), np.float32), np.random.default_rng(0)
    exported = jax.jit(jax.export.deserialize(bytearray(to_jax(program))).call)

    def inputs():
        return observation, rng.standard_normal(shape, np.float32)

    calls = {
        'agent': lambda: np.asarray(agent.sample_actions(observation[0], key)),
        'jax': lambda: np.asarray(exported(*inputs())[0]),
    }
    if HAS_ONNX:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores
        session = onnxruntime.InferenceSession(to_onnx(program), options)
        calls['ONNX'] = lambda: session.run(
            ['chunk'], dict(zip(program.inputs, inputs(), strict=True))
        )
    return calls


def measure(cores: int, methods: list[str], repeats: int) -> list[dict[str, Any]]:
    """Returns rows for each method: one sample, and the best of N."""
    calls = {}
    for method in methods:
        for num in sorted({1, new_agent(method).config.num_samples}):
            agent = new_agent(method, num_samples=num).policy()
            how, name = (f'best of {num}', 'best_of_n') if num > 1 else ('policy', 'policy')
            for kind, call in calls_of(agent, name, cores).items():
                calls[method, how, kind] = call
    times = {key: [] for key in calls}
    for repeat in range(repeats + 3):
        for key, call in calls.items():
            took = seconds(call)
            if repeat >= 3:  # the first compile and warm up
                times[key].append(1e3 * took)
    rows = []
    for method, how in dict.fromkeys(key[:2] for key in calls):
        row = {'method': method, 'acts by': how, 'cores': cores}
        quantiles = (('median', 50), ('99%', 99))
        for kind, (name, percent) in itertools.product(('agent', 'jax', 'ONNX'), quantiles):
            found = times.get((method, how, kind))
            row[f'{kind} {name}, ms'] = float(np.percentile(found, percent)) if found else '-'
        rows.append(row | {'part of 50 ms': row['jax median, ms'] / (1e3 * PERIOD)})
    return rows


def main(_) -> Tables:
    cores = sorted(os.sched_getaffinity(0))
    if FLAGS.cores:
        os.sched_setaffinity(0, cores[: FLAGS.cores])
        return {'latency': measure(FLAGS.cores, FLAGS.methods, FLAGS.repeats)}
    arguments = [f'--methods={",".join(FLAGS.methods)}', f'--repeats={FLAGS.repeats}']
    found = [results_of('latency', [f'--cores={n}', *arguments]) for n in sorted({1, len(cores)})]
    return {'latency': [row for each in found for row in each['latency']]}


if __name__ == '__main__':
    flags.DEFINE_integer('repeats', 1000, 'Calls of each.', lower_bound=1)
    flags.DEFINE_integer('cores', 0, 'Cores to use; 0: one, then all.', lower_bound=0)
    flags.DEFINE_list('methods', list(METHODS), 'Methods to measure.')
    run(main)
