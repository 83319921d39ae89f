"""OGBench's data as scripts make it: its format, its rewards, and what scripts do."""

import numpy as np
import ogbench.utils
import pytest
from test_envs import TASKS

import envs
from envs import make_env
from envs.ogbench import scripted
from envs.ogbench.scripted import ScriptedArm, is_healthy
from envs.registry import find_collection

WIDTHS = {
    'cube-double-play-v0': {'observations': 37, 'qpos': 28, 'qvel': 26},
    'scene-play-v0': {'observations': 40, 'qpos': 25, 'qvel': 24, 'button_states': 2},
    'puzzle-3x3-play-v0': {'observations': 55, 'qpos': 23, 'qvel': 23, 'button_states': 9},
}
BUTTONS = {'scene-play-v0': 28, 'puzzle-3x3-play-v0': 19}  # where they are in an observation

ROWS = 500  # of an episode

every_data_set = pytest.mark.parametrize('name', TASKS)


@pytest.fixture(scope='module')
def collection(tmp_path_factory):
    """A short episode of each, and the directory."""
    directory = tmp_path_factory.mktemp('scenes')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('envs.ogbench.tasks.EPISODE_ROWS', ROWS)
        for name in TASKS:
            suite = find_collection(name)
            episode = suite.make_scripted_policy(name).play((3, 0, 0))
            suite.write_episodes(directory / f'{name}.npz', name, [episode])
    return directory


def read(directory, name):
    with np.load(directory / f'{name}.npz') as file:
        return dict(file)


def test_a_pressed_button_changes_its_neighbours_in_a_puzzle():
    env = make_env(TASKS['puzzle-3x3-play-v0']).unwrapped
    env.reset(seed=0)
    before = env._cur_button_states.copy()
    env.pre_step()
    env.data.joint('buttonbox_joint_4').qpos[0] = -0.03  # the one in the middle
    env.post_step()
    changed = (before != env._cur_button_states).reshape(3, 3)
    np.testing.assert_array_equal(changed, [[0, 1, 0], [1, 1, 1], [0, 1, 0]])


@every_data_set
def test_files_have_ogbench_format(collection, name):
    rows = read(collection, name)
    shapes = {key: (ROWS, width) for key, width in WIDTHS[name].items()}
    shapes |= {'actions': (ROWS, 5), 'terminals': (ROWS,)}
    assert {key: array.shape for key, array in rows.items()} == shapes
    kinds = {'terminals': np.bool_, 'button_states': np.int64}
    assert all(array.dtype == kinds.get(key, np.float32) for key, array in rows.items())
    assert np.abs(rows['actions']).max() == 1
    loaded = ogbench.utils.load_dataset(collection / f'{name}.npz', add_info=True)
    for key in WIDTHS[name]:
        np.testing.assert_array_equal(loaded[key], rows[key][:-1])
    after = rows['observations'][1:]
    np.testing.assert_array_equal(loaded['next_observations'][:-1], after[:-1])
    np.testing.assert_array_equal(np.flatnonzero(loaded['terminals']), [ROWS - 2])


@every_data_set
def test_a_row_holds_the_state_before_its_action(collection, name):
    rows = read(collection, name)
    seen = rows['observations']
    np.testing.assert_allclose(seen[:, :6], rows['qpos'][:, :6])
    np.testing.assert_allclose(seen[:, 6:12], rows['qvel'][:, :6])
    if name in BUTTONS:
        buttons = rows['button_states']
        is_on = seen[:, BUTTONS[name] + 1 :: 4][:, : buttons.shape[1]]  # of the one-hot pairs
        np.testing.assert_array_equal(is_on, buttons)
        assert np.diff(buttons, axis=0).any()
    else:
        cubes = seen[:, [19, 20, 21, 28, 29, 30]] / 10 + np.tile([0.425, 0, 0], 2)
        np.testing.assert_allclose(cubes, rows['qpos'][:, [14, 15, 16, 21, 22, 23]], atol=1e-6)


@pytest.mark.parametrize('name', BUTTONS)
def test_rewards_are_those_of_the_environment(collection, name):
    """Also for a file of OGBench's, in which the state is float32 as here."""
    task, rows = TASKS[name], read(collection, name)
    options = {'ogbench_dataset_dir': str(collection)}
    data = envs.make_dataset(task, **options).load(0)
    sparse = envs.make_dataset(task, sparse=True, **options).load(0)
    env = make_env(task)
    env.reset(seed=0)
    for row in range(0, ROWS, 50):
        state = (rows[key][row].astype(float) for key in ('qpos', 'qvel'))
        env.unwrapped.set_state(*state, rows['button_states'][row])
        reward = env.step(np.zeros(5, np.float32))[1]
        assert data['rewards'][row] == reward
        assert data['masks'][row] == (reward != 0)
        assert sparse['rewards'][row] == -float(reward != 0)
    assert len(np.unique(data['rewards'])) > 1


@pytest.mark.parametrize('name', BUTTONS)
def test_episodes_do_not_depend_on_those_before(name, monkeypatch):
    monkeypatch.setattr('envs.ogbench.tasks.EPISODE_ROWS', 150)
    script = ScriptedArm(name)
    first, _, again = (script.play(seed) for seed in ((3, 0, 0), (3, 0, 1), (3, 0, 0)))
    for key, array in first.items():
        assert len(array) == 150
        np.testing.assert_array_equal(again[key], array)


@pytest.mark.parametrize(
    ('y', 'z', 'healthy'),
    [
        (0.1, 0.02, True),
        (0.291, 0.02, False),
        (-0.301, 0.07, True),  # in the drawer
        (-0.301, 0.02, False),
    ],
)
def test_a_cube_out_of_sight_spoils_an_episode_of_the_scene_alone(y, z, healthy):
    qpos = np.zeros((3, 25), np.float32)
    qpos[:, 16] = 0.02
    qpos[1, 15:17] = y, z
    assert is_healthy('scene', qpos) == healthy
    assert is_healthy('cube-double', qpos)
    assert is_healthy('puzzle-3x3', qpos)


def test_a_spoiled_episode_is_played_anew(monkeypatch):
    script, played = ScriptedArm('scene-play-v0'), []

    def play(seed):
        played.append(seed)
        return {'qpos': np.full((2, 25), 0.3 if len(played) < 3 else 0.0)}

    monkeypatch.setattr(script, '_play', play)
    assert not script.play((5, 0, 1))['qpos'].any()
    assert played == [(5, 0, 1), (5, 0, 1, 1), (5, 0, 1, 2)]
    assert scripted.STACKING['cube-octuple'] == (0, 0.35)


class Still:
    """An oracle that does nothing."""

    done = False

    def reset(self, observation, info):
        pass

    def select_action(self, observation, info):
        return np.zeros(5)


@pytest.mark.parametrize(('name', 'part'), [('cube-single', 0.1), ('puzzle-3x3', 0.2)])
def test_actions_of_noisy_data_are_the_oracles_with_noise_or_random(name, part):
    """Per episode one scale of noise, which for yaw is 3 times and for the gripper 10 times it."""
    arm = ScriptedArm(f'{name}-noisy-v0')
    arm._oracles = dict.fromkeys(arm._oracles, Still())
    actions = np.abs(arm.play((3, 0, 0))['actions'])
    is_random = actions[:, :3].max(axis=1) > 0.5
    assert abs(is_random.mean() - part * (1 - 0.5**3)) < 0.03
    typical = np.median(actions[~is_random], axis=0)
    assert 0 < typical[0] < 0.7 * 0.1
    np.testing.assert_allclose(typical / typical[0], (1, 1, 1, 3, 10), rtol=0.2)


def test_noisy_data_is_made_by_oracles_that_look_at_every_state(monkeypatch):
    monkeypatch.setattr('envs.ogbench.tasks.EPISODE_ROWS', 150)
    arm = ScriptedArm('scene-noisy-v0')
    assert {type(oracle).__name__ for oracle in arm._oracles.values()} == {
        f'{target}MarkovOracle' for target in ('Cube', 'Button', 'Drawer', 'Window')
    }
    first, again = arm.play((3, 0, 0)), arm.play((3, 0, 0))
    assert first['actions'].tobytes() == again['actions'].tobytes()
    assert (
        scripted.details('scene-noisy-v0').items() >= {'noise': 0.1, 'random_actions': 0.1}.items()
    )
