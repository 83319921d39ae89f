"""Exports a policy for a robot: programs with its parameters, and a description.

A program takes its noise as an input, so the robot controls randomness. Standard normal noise gives
the agent's behaviour, and the same noise the same actions. On a CPU these equal the agent's
compiled `generate` and `best_of` bit for bit (tests/test_export.py; XLA does not guarantee it).
`sample_actions` draws its noise inside its program, so its last bit may differ for BFN and MVP.

    policy(observation [b, ...], noise [b, h, d_a]) -> chunk [b, h, d_a]
    best_of_n(observation [b, ...], noises [b, n, h, d_a]) -> chunk [b, h, d_a], value [b]

b and n are any sizes, d_a and h those of the policy; some methods take noise of another shape. A
dict observation becomes one input per array, `observation/<name>`. `value` is the critic's value of
the chosen chunk. The programs need neither this project nor flax.
"""

import functools
import importlib
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

import envs
from agents.base import Agent
from training import checkpoints
from training.config import RunConfig
from training.logs import read_json, versions, write_json
from training.run import load_agent
from utils.errors import UserError

FORMATS = ('jax', 'onnx', 'safetensors')
PACKAGES = {'onnx': 'jax2onnx', 'safetensors': 'safetensors'}  # that a format needs
PLATFORMS = ('cpu', 'cuda')
DESCRIPTION, PARAMETERS = 'policy.json', 'parameters.safetensors'

Shape = tuple[str | int, ...]  # names stand for axes of any size


class Program(NamedTuple):
    """A function for a robot, with the shapes of its inputs and outputs by name."""

    function: Callable[..., tuple[jax.Array, ...]]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    dtypes: dict[str, str]  # of the inputs


def programs(agent: Agent) -> dict[str, Program]:
    """Returns the programs of an agent by name, `policy` and `best_of_n`."""
    observation = checkpoints.named_leaves({'observation': agent.spec.observation})
    inputs: dict[str, Shape] = {name: ('b', *x.shape) for name, x in observation.items()}
    dtypes = {name: np.dtype(x.dtype).name for name, x in observation.items()}
    chunks: dict[str, Shape] = {'chunk': ('b', *agent.spec.chunk)}

    def program(function, noise, shape, outputs):
        return Program(
            functools.partial(function, agent),
            inputs | {noise: shape},
            outputs,
            dtypes | {noise: 'float32'},
        )

    return {
        'policy': program(_policy, 'noise', ('b', *agent.noise_shape), chunks),
        'best_of_n': program(
            _best_of_n, 'noises', ('b', 'n', *agent.noise_shape), chunks | {'value': ('b',)}
        ),
    }


def _policy(agent: Agent, *inputs: jax.Array) -> tuple[jax.Array]:
    agent = _with_opaque_params(agent)
    observation, noise = _observation(agent, inputs[:-1]), inputs[-1]
    noise = noise.reshape(-1, 1, agent.noise_dim)
    chunks = agent.generate(agent.params, observation, noise)
    return (_unflatten(agent, chunks[:, 0]),)


def _best_of_n(agent: Agent, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    agent = _with_opaque_params(agent)
    observation, noises = _observation(agent, inputs[:-1]), inputs[-1]
    noises = noises.reshape(*noises.shape[:2], agent.noise_dim)
    chunk, value = agent.best_of(observation, noises)
    return _unflatten(agent, chunk), value


def _observation(agent: Agent, leaves: Sequence[jax.Array]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(agent.spec.observation), leaves)


def _with_opaque_params(agent: Agent) -> Agent:
    """Returns the agent with parameters that XLA does not treat as constants.

    Constant folding would round differently from the agent's own programs.
    """
    return agent.replace(params=jax.lax.optimization_barrier(agent.params))


def _unflatten(agent: Agent, chunk: jax.Array) -> jax.Array:
    return chunk.reshape(-1, *agent.spec.chunk)


def to_jax(program: Program) -> bytes:
    """Returns a program as StableHLO for CPUs and CUDA.

    `jax.export.deserialize(…).call(*inputs)` runs it and returns a tuple.
    """
    scope = jax.export.SymbolicScope()
    inputs = [
        jax.ShapeDtypeStruct(
            jax.export.symbolic_shape(', '.join(map(str, shape)), scope=scope), program.dtypes[name]
        )
        for name, shape in program.inputs.items()
    ]
    exported = jax.export.export(jax.jit(program.function), platforms=PLATFORMS)(*inputs)
    return bytes(exported.serialize())


def to_onnx(program: Program) -> bytes:
    """Returns a program as an ONNX model, whose inputs and outputs have the program's names.

    Raises:
        UserError: jax2onnx is not installed.
    """
    logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # it warns about named axes
    model = _extra('jax2onnx', 'onnx').to_onnx(
        program.function,
        inputs=list(program.inputs.values()),
        input_names=list(program.inputs),
        output_names=list(program.outputs),
    )
    return model.SerializeToString()


def _extra(name: str, needed_by: str) -> Any:
    """Imports a package that only one format needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f'--formats={needed_by}: needs {name} ({error}); pip install --no-deps -r '
            'requirements-export.txt'
        ) from error


def export_policy(
    checkpoint: str | pathlib.Path,
    output: str | pathlib.Path,
    seed: int | None = None,
    formats: Sequence[str] = ('jax',),
) -> dict[str, Any]:
    """Writes the policy of a checkpoint for a robot: the whole folder, or nothing.

    Args:
        checkpoint: a checkpoint, or a run, for its newest intact checkpoint.
        output: the folder, new or empty.
        seed: one of the seeds trained together; by default the first.
        formats: 'jax' (`policy.jax`, `best_of_n.jax`), 'onnx' (the same as `.onnx`), 'safetensors'
            (the parameters of actor and critic as `parameters.safetensors`), or several of them.

    Returns:
        The content of `policy.json`, which is always written.

    Raises:
        CheckpointError: there is no intact checkpoint.
        UserError: an argument is invalid, or a format's package is not installed.
    """
    output = pathlib.Path(output).expanduser().absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f'--output={output}: exists already; remove it, or choose another folder')
    if not formats or set(formats) - set(FORMATS):
        raise UserError(f'--formats={",".join(formats)}: use some of {", ".join(FORMATS)}')
    for name in set(formats) & set(PACKAGES):
        _extra(PACKAGES[name], name)
    path = checkpoints.find(checkpoint, 'checkpoint')
    agent, metadata = load_agent(checkpoint, seed)
    if seed is not None and seed not in metadata['seeds']:
        there_are = ', '.join(map(str, metadata['seeds']))
        raise UserError(f'--seed={seed}: not in {path}; it has {there_are}')
    agent = agent.policy()
    description = _describe(path, metadata, agent, seed)
    files = _files(agent, formats)
    for name, program in description['programs'].items():
        program['files'] = [file for file in files if file.startswith(f'{name}.')]

    part = output.with_name(f'.{output.name}.part')
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name, content in files.items():
            (part / name).write_bytes(content)
        write_json(part / DESCRIPTION, description)
        os.replace(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return description


def _files(agent: Agent, formats: Sequence[str]) -> dict[str, bytes]:
    """Returns the content of each file except `policy.json`."""
    files = {}
    if 'jax' in formats:
        files |= {f'{name}.jax': to_jax(program) for name, program in programs(agent).items()}
    if 'onnx' in formats:
        # ONNX has no platform-dependent programs.
        critic = agent.modules['critic'].clone(is_apart=True)
        plain = agent.replace(modules=agent.modules.copy({'critic': critic}))
        files |= {f'{name}.onnx': to_onnx(program) for name, program in programs(plain).items()}
    if 'safetensors' in formats:
        save = _extra('safetensors.numpy', 'safetensors').save
        files[PARAMETERS] = save(checkpoints.flatten(agent.params))
    return files


def _describe(
    path: pathlib.Path, metadata: dict[str, Any], agent: Agent, seed: int | None
) -> dict[str, Any]:
    """Returns the content of `policy.json`, which names no path of this machine."""
    config = RunConfig.from_json(metadata['config'])
    suite = config.task.suite
    options = envs.check_options(suite, config.env_options)
    interface = suite.interface(config.task, **options)
    if interface.action_range:
        low, high = ([bound] * agent.spec.chunk[1] for bound in interface.action_range)
    else:
        env = suite.make_env(config.task, render=False, **options)
        space: Any = env.action_space
        low, high = space.low.tolist(), space.high.tolist()
        env.close()
    lasting = {option.name for option in suite.options if option.decides_result}
    run, now = read_json(path.parent.parent / 'flags.json'), versions()
    return {
        'env_name': config.env_name,
        'suite': config.suite,
        'env_options': {name: value for name, value in options.items() if name in lasting},
        'observation': {
            'shape': jax.tree.map(lambda x: list(x.shape), agent.spec.observation),
            'parts': [part._asdict() for part in interface.observation],
        },
        'action': {
            'size': agent.spec.chunk[1],
            # The environment's own actions for −1 and 1 of a chunk.
            'low': low,
            'high': high,
            'parts': [part._asdict() for part in interface.action],
        },
        'control_rate': interface.control_rate,
        'chunk_length': agent.spec.horizon,
        'num_samples': agent.config.num_samples,
        'programs': {
            name: {'inputs': program.inputs, 'outputs': program.outputs, 'dtypes': program.dtypes}
            for name, program in programs(agent).items()
        },
        'method': config.label,
        'agent': agent.config._asdict(),
        'seed': metadata['seeds'][0] if seed is None else seed,
        'phase': metadata['phase'],
        'step': metadata['step'],
        'data': metadata['data'],
        'commit': run.get('versions', {}).get('commit'),
        'exported_with': {name: now[name] for name in ('commit', 'jax')},
    }
