"""Policies for robots: the same actions from files alone, and what is written beside them."""

import json
import pathlib
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from processes import run_python
from small_agents import ACTION_DIM, METHODS, OBSERVATION_DIM, equal, make
from small_runs import make_config

import envs
from envs.episodes import ActionChunks
from examples import run_exported
from training import checkpoints, load_agent, load_policy, train
from training.export import FORMATS, _files, export_policy, programs, to_jax
from utils.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
NUM_SAMPLES = 7
FILES = {'policy.jax', 'best_of_n.jax', 'policy.json'}
# Settings of the agents besides their own, and the batch to act for.
CASES = {
    'chunks': ({}, 1),
    'single actions': ({'action_chunking': False}, 5),
    'three critics': ({'num_qs': 3, 'q_agg': 'mean_std'}, 2),
}
# Methods whose chunks have the same bits in a program that draws the noise itself.
ROUND_ALIKE = 'dfp', 'fql'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run of two seeds whose evaluation chooses among five."""
    config = make_config(
        tmp_path_factory.mktemp('run'), agent={'eval_num_samples': 5}, num_seeds=2, seed=3,
        online_steps=0, eval_interval=0,
    )  # fmt: skip
    return config, train(config, show_progress=False).directory


@pytest.fixture(scope='module')
def exported(finished, tmp_path_factory):
    """The folder of its second seed's policy, and the description."""
    folder = tmp_path_factory.mktemp('robot') / 'policy'
    return folder, export_policy(finished[1], folder, seed=4)


def exported_program(policy, name):
    """A program of a policy, written and read again."""
    return jax.jit(jax.export.deserialize(bytearray(to_jax(programs(policy)[name]))).call)


@jax.jit
def generate(agent, observations, noise):
    """Returns the agent's own chunks for this noise; they round as its programs do, compiled."""
    return agent.generate(agent.params, observations, noise)


@jax.jit
def best_of_n(agent, observations, noise):
    """Returns the best of them and its value."""
    return agent.choose(observations, agent.generate(agent.params, observations, noise))


def observe(batch):
    return np.random.default_rng(0).normal(size=(batch, OBSERVATION_DIM)).astype(np.float32)


# ---- programs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('method', 'case'),
    [
        *((method, 'chunks') for method in METHODS),
        ('dfp', 'single actions'),
        ('qam', 'three critics'),
    ],
)
def test_an_exported_policy_acts_as_the_agent_bit_by_bit(method, case):
    changes, batch = CASES[case]
    policy = make(method, num_samples=2, eval_num_samples=NUM_SAMPLES, **changes).policy()
    observations, rng = observe(batch), jax.random.PRNGKey(1)
    noises = jax.random.normal(rng, (batch, NUM_SAMPLES, policy.spec.horizon, ACTION_DIM))
    chunk, value = exported_program(policy, 'best_of_n')(observations, noises)
    flat = noises.reshape(batch, NUM_SAMPLES, -1)
    expected, expected_value = best_of_n(policy, observations, flat)
    expected = expected.reshape(batch, -1, ACTION_DIM)
    np.testing.assert_array_equal(chunk, expected)
    np.testing.assert_array_equal(value, expected_value)
    drawn_inside = policy.sample_actions(observations, rng)
    atol = 0 if method in ROUND_ALIKE else 1e-6
    np.testing.assert_allclose(chunk, drawn_inside, rtol=0, atol=atol)
    (sample,) = exported_program(policy, 'policy')(observations, noises[:, 0])
    expected = generate(policy, observations, flat[:, :1])
    np.testing.assert_array_equal(sample.reshape(batch, -1), expected[:, 0])


# ---- ONNX and safetensors, for those who have the packages ------------------------------------


def ask_onnx(model, **inputs):
    runtime = pytest.importorskip('onnxruntime', reason='see requirements-export.txt')
    session = runtime.InferenceSession(model, providers=['CPUExecutionProvider'])
    assert [x.name for x in session.get_inputs()] == list(inputs)
    outputs = session.run(None, {name: np.asarray(value) for name, value in inputs.items()})
    return dict(zip([x.name for x in session.get_outputs()], outputs, strict=True))


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('case', CASES)
def test_onnx_runtime_gives_the_agents_actions(method, case):
    pytest.importorskip('jax2onnx', reason='see requirements-export.txt')
    changes, batch = CASES[case]
    policy = make(method, num_samples=NUM_SAMPLES, **changes).policy()
    ours = programs(policy)
    models = {name.partition('.')[0]: model for name, model in _files(policy, ['onnx']).items()}
    rng = np.random.default_rng(0)
    for size in (batch, 1):
        shape = size, NUM_SAMPLES, policy.spec.horizon, ACTION_DIM
        noises, observation = rng.standard_normal(shape, np.float32), observe(size)
        found = ask_onnx(models['best_of_n'], observation=observation, noises=noises)
        chunk, value = jax.jit(ours['best_of_n'].function)(observation, noises)
        np.testing.assert_allclose(found['chunk'], chunk, atol=1e-5)
        np.testing.assert_allclose(found['value'], value, atol=1e-5)
        found = ask_onnx(models['policy'], observation=observation, noise=noises[:, 0])
        (chunk,) = jax.jit(ours['policy'].function)(observation, noises[:, 0])
        np.testing.assert_allclose(found['chunk'], chunk, atol=1e-5)


def test_all_formats_are_written_side_by_side(finished, tmp_path):
    for package in ('jax2onnx', 'onnxruntime', 'safetensors'):
        pytest.importorskip(package, reason='see requirements-export.txt')
    from safetensors.numpy import load_file

    written = export_policy(finished[1], tmp_path / 'policy', formats=FORMATS)
    found = {path.name for path in (tmp_path / 'policy').iterdir()}
    assert found == FILES | {'policy.onnx', 'best_of_n.onnx', 'parameters.safetensors'}
    assert written['programs']['policy']['files'] == ['policy.jax', 'policy.onnx']
    params = load_policy(finished[1]).params
    loaded = load_file(tmp_path / 'policy' / 'parameters.safetensors')
    assert equal(loaded, checkpoints.flatten(params))


def test_a_format_whose_package_is_missing_says_how_to_get_it(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'jax2onnx', None)  # importing it fails
    with pytest.raises(UserError, match=r'--formats=onnx: needs jax2onnx .*requirements-export'):
        export_policy(finished[1], tmp_path / 'policy', formats=['jax', 'onnx'])
    assert not list(tmp_path.iterdir())


# ---- the folder -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_folder_is_all_a_robot_needs(finished, exported):
    """A process that finds nothing of this project acts as the agent does."""
    folder, _ = exported
    assert {path.name for path in folder.iterdir()} == FILES
    program = (
        'import jax.export, numpy, pathlib, sys\n'
        'read = pathlib.Path("best_of_n.jax").read_bytes()\n'
        'noises = jax.random.normal(jax.random.key(2), (1, 5, 3, 1))\n'
        'chunk, _ = jax.jit(jax.export.deserialize(read).call)(jax.numpy.ones((1, 3)), noises)\n'
        'assert not {"agents", "flax", "training"} & set(sys.modules)\n'
        'print(numpy.asarray(chunk).tobytes().hex())\n'
    )
    result = run_python('-I', '-c', program, cwd=folder, timeout=100)
    assert result.returncode == 0, result.stderr
    policy = load_policy(finished[1], 4)
    expected = policy.sample_actions(jnp.ones((1, 3)), jax.random.key(2))
    assert result.stdout.strip() == np.asarray(expected).tobytes().hex()


def test_the_description_says_what_a_robot_must_know(finished, exported):
    folder, returned = exported
    text = (folder / 'policy.json').read_text()
    written = json.loads(text)
    assert written == json.loads(json.dumps(returned))
    parts = {
        'observation': [('position', 'm'), ('last push', 'm'),
                        ('part of the time that has passed', '1')],
        'action': [('push', '2 m')],
    }  # fmt: skip
    for kind, expected in parts.items():
        assert [(part['name'], part['unit']) for part in written[kind]['parts']] == expected
    assert (written['observation']['shape'], written['action']['size']) == ([3], 1)
    assert (written['action']['low'], written['action']['high']) == ([-2.0], [2.0])
    expected = {
        'env_name': 'toy-push-v0', 'suite': 'toy_suite:suite',
        'env_options': {'toy_time_limit': 10}, 'control_rate': 4.0, 'chunk_length': 3,
        'num_samples': 5, 'method': 'dfp', 'seed': 4, 'phase': 'offline', 'step': 20,
        'data': load_agent(finished[1])[1]['data'],
    }  # fmt: skip
    assert {name: written[name] for name in expected} == expected
    assert written['agent']['eval_num_samples'] == 5
    flags = json.loads((finished[1] / 'flags.json').read_text())
    assert written['commit'] == flags['versions']['commit']
    assert written['exported_with']['jax'] == jax.__version__
    assert written['programs']['best_of_n'] == {
        'inputs': {'observation': ['b', 3], 'noises': ['b', 'n', 3, 1]},
        'outputs': {'chunk': ['b', 3, 1], 'value': ['b']},
        'dtypes': {'observation': 'float32', 'noises': 'float32'},
        'files': ['best_of_n.jax'],
    }
    assert str(finished[0].save_dir) not in text


def test_the_example_plays_whole_episodes_as_the_agent_would(finished, exported):
    rng = np.random.default_rng(7)
    found = list(run_exported.run(exported[0], 4, np.random.default_rng(7)))
    policy, config = load_policy(finished[1], 4), finished[0]
    act = jax.jit(programs(policy)['best_of_n'].function)
    env, expected = ActionChunks(envs.make_env(config.task), 3), []
    for episode in range(4):
        observation, done = env.begin(episode), False
        while not done:
            chunk, _ = act(observation[None], rng.standard_normal((1, 5, 3, 1), np.float32))
            transitions, _, success = env.play(np.asarray(chunk[0]))
            observation, done = transitions['next_observation'], transitions['done']
        expected.append(success)
    assert found == expected


# ---- what cannot be used ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'checkpoint': '/no/such'}, '--checkpoint=/no/such: no checkpoint there; name the'),
        ({'seed': 0}, r'--seed=0: not in .*; it has 3, 4'),
        ({'formats': ['jax', 'tflite']}, '--formats=jax,tflite: use some of jax, onnx, saf'),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line_and_leaves_nothing(
    finished, tmp_path, arguments, message
):
    arguments = {'checkpoint': finished[1], 'output': tmp_path / 'policy'} | arguments
    with pytest.raises(UserError, match=message) as caught:
        export_policy(**arguments)
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(finished, tmp_path):
    (tmp_path / 'precious').write_text('data')
    for output in (tmp_path, tmp_path / 'precious'):
        with pytest.raises(UserError, match=f'--output={output}: exists already; remove it'):
            export_policy(finished[1], output)
    assert (tmp_path / 'precious').read_text() == 'data'
