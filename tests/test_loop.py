"""The order of events in a run: the updates before each action, and what waits for what."""

import flax
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from near_simulators import NearSimulators
from small_agents import make_spec

from envs.episodes import ActionChunks
from envs.workers import SimulatorError
from training import loop, updates
from training.config import RunConfig
from training.loop import RunContext, advance
from training.state import RunState, SeedState
from utils.errors import NotFinite
from utils.replay import Replay, Rows
from utils.seeds import stack
from utils.spec import Spec

HORIZON, UNIT = 5, 1e-3


class Counting(flax.struct.PyTreeNode):
    """An agent that counts its updates, and whose every action is that count × UNIT."""

    rng: jax.Array
    count: jax.Array
    horizon_length: int = flax.struct.field(pytree_node=False, default=HORIZON)
    spec: Spec = flax.struct.field(pytree_node=False, default=make_spec(1, 1, HORIZON))
    discount: float = flax.struct.field(pytree_node=False, default=0.9)
    acts: str = flax.struct.field(pytree_node=False, default='')

    def sample_batch(self, replay, data, rng):
        return replay.sample(data, rng, 4, self.horizon_length, self.discount)

    def update(self, batch):
        return self.replace(count=self.count + 1), {'count': self.count}

    def diagnose(self, batch, rng):
        return {'diagnosed at': self.count}

    def sample_actions(self, observation, rng):
        assert self.acts == 'online'
        return jnp.full((HORIZON, 1), UNIT) * self.count + 0 * observation[0]

    def policy(self):
        return self.replace(acts='in evaluation')

    def exploration_policy(self):
        return self.replace(acts='online')

    def begin_online(self):
        return self


class Fixed(gymnasium.Env):
    """Every episode has the same length and ends with success.

    The first of `faults`, (length, step), makes it raise once.
    """

    faults: list = []  # noqa: RUF012
    observation = reward = 0.0

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.faults[:1] == [(self.length, self.steps)]:
            self.faults.pop(0)
            raise ZeroDivisionError('by design')
        self.steps += 1
        done = self.steps == self.length
        observation = np.full(1, self.observation, np.float32)
        return observation, self.reward, done, False, {'success': done}


class Log:
    sizes: dict = {}  # noqa: RUF012

    def __init__(self):
        self.rows = []

    def write(self, table, phase, step, rows):
        self.rows.append((table, phase, step, list(rows)))


class Run:
    """A run of the real loop, on the real replay, with the agent and environments above."""

    def __init__(self, monkeypatch, lengths, **settings):
        defaults = {
            'online_steps': 23, 'offline_steps': 0, 'start_training': 0, 'eval_interval': 10,
            'log_interval': 100, 'overlap': True, 'horizon_length': HORIZON,
        }  # fmt: skip
        self.config = RunConfig(num_seeds=len(lengths), **(defaults | settings))
        self.evaluations = []  # (step, updates made)
        monkeypatch.setattr(loop, 'evaluate', self.evaluate)
        data = Rows.from_dataset(
            {
                'observations': np.zeros((8, 1), np.float32),
                'actions': np.full((8, 1), -1, np.float32),
                'rewards': np.zeros(8, np.float32),
                'masks': np.ones(8, np.float32),
                'terminals': np.arange(8) == 7,
            }
        )
        num = len(lengths)
        agents = stack([Counting(jax.random.PRNGKey(i), jnp.int32(0)) for i in range(num)])
        replays = stack([Replay.create(data, 1000)] * num)
        agents, replays = jax.device_put((agents, replays), jax.devices()[0])
        totals = updates.zero_totals(agents, replays, data)
        self.state = RunState(seeds=(SeedState(agents, replays, totals),))
        self.log, self.states = Log(), []
        makes = [lambda n=n: ActionChunks(Fixed(n), HORIZON) for n in lengths]
        self.context = RunContext(
            config=self.config,
            data=[data],
            shards=[data],
            log=self.log,
            eval_simulators=object() if self.config.eval_episodes else None,
            make_simulators=lambda: NearSimulators(makes),
            check=lambda: None,
            show_progress=False,
        )

    def evaluate(self, policies, *_):
        assert {x.acts for x in policies} == {'in evaluation'}
        counts = np.concatenate([x.count for x in policies])
        self.evaluations.append((self.state.step, counts.tolist()))
        return [{'success': 0.0} for _ in counts], None

    def finish(self):
        """Advances to the end; keeps a few numbers of each state on the way."""
        while (state := advance(self.state, self.context)) is not None:
            self.state = state
            if state.rollout is not None:
                self.states.append(
                    (
                        state.rollout.env_steps.tolist(),
                        np.asarray(state.seeds[0].agents.count).tolist(),
                        np.asarray(state.seeds[0].replays.rows.num_starts).tolist(),
                    )
                )
        return self

    def seen_by_actions(self, seed):
        """How many updates the policy had seen when it chose each action of the online phase."""
        rows = jax.tree.map(lambda x: np.asarray(x[seed]), self.state.seeds[0].replays.rows)
        starts = rows.starts[: rows.num_starts] - 8  # after the data's
        return np.rint(rows.fields['actions'][starts, 0] / UNIT).astype(int).tolist()


def test_the_acting_policy_is_one_chunk_old_and_updates_see_all_data_of_their_time(monkeypatch):
    run = Run(monkeypatch, [1000], online_steps=25).finish()
    # Evaluations at 10 and 20 wait for all updates; else a chunk's updates follow its successor.
    assert run.seen_by_actions(0) == [0] * 5 + [0] * 5 + [10] * 5 + [10] * 5 + [20] * 5
    assert run.evaluations == [(0, [0]), (10, [10]), (20, [20]), (25, [25])]
    for _, updates_made, stored in run.states:
        assert updates_made == stored


def test_without_overlap_all_updates_owed_are_made_before_the_next_chunk_is_chosen(monkeypatch):
    run = Run(monkeypatch, [1000, 1000], log_interval=10, overlap=False).finish()
    assert run.seen_by_actions(0) == [5 * (i // 5) for i in range(25)]
    assert run.evaluations[-1] == (23, [23, 23])  # the last chunk is played to its end
    assert of_online(run, 'diagnosed at') == [10, 10, 20, 20, 23, 23]  # when a row is written


def test_updates_begin_at_start_training_and_follow_the_ratio(monkeypatch):
    settings = {'start_training': 13, 'utd_ratio': 3, 'log_interval': 10}
    run = Run(monkeypatch, [1000], **settings).finish()
    assert run.evaluations == [(0, [0]), (10, [0]), (20, [24]), (23, [33])]
    assert of_online(run, 'count') == [None, 11.5, 28.0]  # means of the updates since


def test_seeds_with_shorter_chunks_are_waited_for(monkeypatch):
    """Episodes of 3 steps cut each chunk to 3: that seed is behind, and evaluated at the same."""
    run = Run(monkeypatch, [1000, 3], log_interval=10).finish()
    assert run.evaluations == [(step, [step, step]) for step in (0, 10, 20, 23)]
    steps = [steps for steps, *_ in run.states]
    assert [x for i, x in enumerate(steps) if x != steps[i - 1]][:6] == [
        [0, 0], [5, 3], [10, 6], [10, 9], [10, 12], [15, 15],
    ]  # fmt: skip
    rows = [rows for table, _, _, rows in run.log.rows if table == 'online']
    assert [[row['episodes'] for row in both] for both in rows] == [[0, 4], [0, 3], [0, 1]]
    assert rows[0][1]['episode_success'] == 1.0
    assert rows[0][0]['episode_success'] is None
    assert [row['count'] for row in rows[1]] == [14.5, 14.5]  # the mean over updates 10 to 19


def test_rows_and_evaluations_are_at_the_multiples_of_their_intervals_and_at_the_end(monkeypatch):
    run = Run(monkeypatch, [7], offline_steps=25, online_steps=33, log_interval=12).finish()
    steps = {table: [] for table in ('offline', 'online', 'eval')}
    for table, phase, step, _ in run.log.rows:
        steps[table].append((phase, step))
    assert steps['offline'] == [('offline', step) for step in (12, 24, 25)]
    assert steps['online'] == [('online', step) for step in (12, 24, 33)]
    assert steps['eval'] == [
        *(('offline', step) for step in (0, 10, 20, 25)),
        *(('online', step) for step in (0, 10, 20, 30, 33)),
    ]
    # The agent that begins online is the one that ended offline: it is not evaluated again.
    assert len(run.evaluations) == len(steps['eval']) - 1


def test_with_intervals_of_0_there_are_rows_and_evaluations_at_the_ends_only(monkeypatch):
    run = Run(monkeypatch, [7], offline_steps=25, online_steps=33, log_interval=0, eval_interval=0)
    rows = [(table, phase, step) for table, phase, step, _ in run.finish().log.rows]
    assert rows == [
        ('offline', 'offline', 25), ('eval', 'offline', 25), ('online', 'online', 33),
        ('eval', 'online', 33),
    ]  # fmt: skip
    assert run.evaluations == [(25, [25]), (33, [25 + 33])]


def test_a_phase_without_steps_is_left_out(monkeypatch):
    assert {phase for _, phase, _, _ in Run(monkeypatch, [5]).finish().log.rows} == {'online'}
    run = Run(monkeypatch, [5], offline_steps=3, online_steps=0).finish()
    assert {phase for _, phase, _, _ in run.log.rows} == {'offline'}


def of_online(run, name):
    return [row[name] for table, _, _, rows in run.log.rows if table == 'online' for row in rows]


def test_after_a_failure_the_same_chunk_is_played_and_all_is_as_if_there_was_none(monkeypatch):
    undisturbed = Run(monkeypatch, [1000, 7], log_interval=10).finish()
    run = Run(monkeypatch, [1000, 7], log_interval=10)
    monkeypatch.setattr(Fixed, 'faults', [(1000, 12), (7, 3), (1000, 21)])
    run.finish()
    assert Fixed.faults == []
    assert sum(of_online(run, 'simulator_failures')) == 3
    assert run.states == undisturbed.states
    for each in (lambda x: x.state.seeds[0].replays, lambda x: x.state.rollout.pending):
        jax.tree.map(np.testing.assert_array_equal, each(run), each(undisturbed))
    for name in ('episodes', 'episode_success', 'count'):
        assert of_online(run, name) == of_online(undisturbed, name)


def test_a_second_failure_ends_the_episode_and_the_run_which_goes_on_with_the_next_one(monkeypatch):
    run = Run(monkeypatch, [1000], log_interval=10)
    monkeypatch.setattr(Fixed, 'faults', [(1000, 12)] * 2)
    with pytest.raises(SimulatorError, match='by design, twice after 10 actions of the episode'):
        run.finish()
    rollout = run.state.rollout
    assert rollout.env_steps.tolist() == [10]
    assert rollout.episodes.tolist() == rollout.pending['done'].tolist() == [1]
    run.context.failure = run.context.simulators = None  # as in another process
    run.finish()
    assert of_online(run, 'simulator_failures') == [0, 2, 0]
    assert of_online(run, 'episodes') == [0, 0, 0]  # that was not played to its end
    stored = run.state.seeds[0].replays
    assert int(stored.rows.num_starts[0]) == 25
    assert int(stored.rows.num_episodes[0]) == 1  # that was given up; the open one comes after it
    ids = np.asarray(stored.rows.episode_ids[0][:27]) - 1  # after the data's
    assert ids.tolist() == [0] * 11 + [1] * 16
    assert run.state.rollout.num_actions.tolist() == [15]


@pytest.mark.parametrize('is_known', [True, False])
def test_a_run_that_is_resumed_cuts_off_what_the_environment_does_not_repeat(
    monkeypatch, caplog, is_known
):
    """The first seed is in an episode that never ends, the second between two of ten steps."""
    run = Run(monkeypatch, [1000, 10])
    while run.state.rollout is None or run.state.rollout.num_actions.tolist() != [10, 0]:
        run.state = advance(run.state, run.context)
    run.context.simulators = None
    make = run.context.make_simulators

    def make_again():
        simulators = make()
        simulators.repeats = not is_known
        return simulators

    run.context.make_simulators = make_again
    monkeypatch.setattr(Fixed, 'observation', 0.5)
    run.finish()
    (said,) = caplog.messages
    assert (
        'is not deterministic, so an open episode cannot continue; it is truncated after 10' in said
    )
    assert run.state.rollout.episodes.tolist() == [1, 2]
    rows = run.state.seeds[0].replays.rows
    assert rows.num_starts.tolist() == [25, 25]  # the last chunk is executed whole
    assert rows.num_episodes.tolist() == [1, 2]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'observation': np.nan}, 'seed 1 returned an observation that is not finite'),
        ({'reward': -np.inf}, 'environment of seed 1 returned a reward that is not finite'),
    ],
)
def test_what_a_simulator_gives_is_finite_or_the_run_ends(monkeypatch, changes, message):
    run = Run(monkeypatch, [4, 4])

    def make_faulty():
        env = Fixed(4)
        for name, value in changes.items():
            setattr(env, name, value)
        return ActionChunks(env, HORIZON)

    run.context.make_simulators = lambda: NearSimulators(
        [lambda: ActionChunks(Fixed(4), HORIZON), make_faulty]
    )
    with pytest.raises(NotFinite, match=f'{message}, in the chunk after online step 0'):
        run.finish()


def test_values_beyond_what_rewards_allow_are_warned_of_once(monkeypatch, caplog):
    run = Run(monkeypatch, [4], discount=0.9)
    run.context.largest_reward = 2.0
    averages = {'critic/q_min': -199.0, 'critic/q_max': 10.0}
    loop._warn_of_values(0, averages, run.state, run.context)
    assert not caplog.records
    averages['critic/q_min'] = -201.0
    for _ in range(2):
        loop._warn_of_values(0, averages, run.state, run.context)
    run.context.has_warned_of_values, run.context.largest_reward = False, 0.0
    loop._warn_of_values(0, averages, run.state, run.context)  # no reward says nothing of values
    (record,) = caplog.records
    message = 'critic/q_min of seed 0 is -201 at offline step 0, but with rewards up to 2 and '
    assert f'{message}--discount=0.9 no value is beyond 20' in record.getMessage()
