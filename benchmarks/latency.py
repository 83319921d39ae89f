"""Measures a robot's wait for a chunk: paper size, batch 1, from host to host.

    python -m benchmarks.latency

`policy` is one sample, `best of N` what the method plays. Each is computed by the agent, by the
program that `export.py` writes for jax, and, with requirements-export.txt, by the one for ONNX
Runtime. The three take turns and get new noise for every call. A robot at 20 Hz has 50 ms per
action. The measurement runs in a process with one core, then in one with all.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np
from absl import flags

from agents.base import Agent
from benchmarks.common import (
    OBSERVATION_DIM,
    new_agent,
    print_table,
    results_of,
    run,
    save,
    seconds,
)
from training.export import programs, to_jax, to_onnx

FLAGS = flags.FLAGS
METHODS = ('DFP', 'MVP', 'QC-FQL', 'FQL', 'QC-BFN', 'BFN')
PERIOD = 0.05  # seconds; 20 Hz control
HAS_ONNX = all(map(importlib.util.find_spec, ('jax2onnx', 'onnxruntime')))

Call = Callable[[], Any]


def agent_call(agent: Agent) -> Call:
    """Returns a call of the agent as in evaluation."""
    observation, rng = np.zeros(OBSERVATION_DIM, np.float32), jax.random.PRNGKey(0)
    return lambda: np.asarray(agent.sample_actions(observation, rng))


def exported_calls(agent: Agent, name: str, cores: int) -> dict[str, Call]:
    """Returns calls of an exported program by runtime, each with new noise."""
    program = programs(agent)[name]
    sizes = {'b': 1, 'n': agent.config.num_samples}
    _, shape = ([sizes.get(str(axis), axis) for axis in x] for x in program.inputs.values())
    observation, rng = np.zeros((1, OBSERVATION_DIM), np.float32), np.random.default_rng(0)
    exported = jax.jit(jax.export.deserialize(bytearray(to_jax(program))).call)

    def by_jax():
        return np.asarray(exported(observation, rng.standard_normal(shape, np.float32))[0])

    if not HAS_ONNX:
        return {'jax': by_jax}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    session = onnxruntime.InferenceSession(to_onnx(program), options)

    def by_onnx():
        noise = rng.standard_normal(shape, np.float32)
        return session.run(['chunk'], dict(zip(program.inputs, (observation, noise), strict=True)))[
            0
        ]

    return {'jax': by_jax, 'ONNX': by_onnx}


def measure(cores: int, methods: list[str], repeats: int) -> list[dict[str, Any]]:
    """Returns rows for each method: one sample, and the best of N."""
    calls: dict[tuple[str, str], dict[str, Call]] = {}
    for method in methods:
        num_samples = new_agent(method).config.num_samples
        for num in sorted({1, num_samples}):
            agent = new_agent(method, num_samples=num).policy()
            name = 'policy' if num == 1 else 'best_of_n'
            of_n = exported_calls(agent, name, cores)
            calls[method, f'best of {num}' if num > 1 else 'policy'] = {
                'agent': agent_call(agent)
            } | of_n
    times = {(key, kind): [] for key, each in calls.items() for kind in each}
    for repeat in range(repeats + 3):
        for key, kind in times:
            took = seconds(calls[key][kind])
            if repeat >= 3:  # the first compile and warm up
                times[key, kind].append(1e3 * took)
    return [
        {'method': method, 'acts by': how, 'cores': cores}
        | {
            f'{kind} {name}, ms': float(np.percentile(times[(method, how), kind], percent))
            if kind in calls[method, how]
            else '-'
            for kind in ('agent', 'jax', 'ONNX')
            for name, percent in (('median', 50), ('99%', 99))
        }
        | {'part of 50 ms': np.median(times[(method, how), 'jax']) / (1e3 * PERIOD)}
        for method, how in calls
    ]


def main(_) -> None:
    if FLAGS.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: FLAGS.cores])
        rows = measure(FLAGS.cores, FLAGS.methods, FLAGS.repeats)
    else:
        arguments = [f'--methods={",".join(FLAGS.methods)}', f'--repeats={FLAGS.repeats}']
        measured = functools.partial(results_of, 'latency')
        rows = []
        for cores in sorted({1, len(os.sched_getaffinity(0))}):
            rows += measured([f'--cores={cores}', *arguments])['latency']
        print_table(rows)
    save(FLAGS.json, {'latency': rows})


if __name__ == '__main__':
    flags.DEFINE_integer('repeats', 1000, 'Calls of each.', lower_bound=1)
    flags.DEFINE_integer('cores', 0, 'Cores to use; 0: one, then all.', lower_bound=0)
    flags.DEFINE_list('methods', list(METHODS), 'Methods to measure.')
    run(main)
