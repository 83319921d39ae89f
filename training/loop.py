"""Both phases of a run, one step after the other.

`advance` makes one step: a block of updates, a chunk in the environments, a report (table rows,
evaluation), or the change of phase. Between steps a run can be saved and interrupted.
`RunState.reported` records the last report.
"""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from envs.episodes import episode_seed
from envs.simulators import Simulators, Start
from envs.workers import SimulatorError
from training import updates
from training.config import RunConfig
from training.evaluation import evaluate, headline
from training.logs import RunLog
from training.shards import ShardReader
from training.state import PHASES, Rollout, RunState, SeedState, begin_online
from utils.errors import NotFinite
from utils.keys import key_for
from utils.replay import Rows
from utils.seeds import unstack

OFFLINE_GROUP = 32  # updates that run without the host, see `updates.update_many`
DIVERGENCE_FACTOR = 10  # warn when |Q| exceeds this multiple of r_max / (1 − γ)
Row = Mapping[str, float | None]  # None: an empty cell in the tables
Metrics = Callable[[str, str, int, list[Row]], None]


@dataclasses.dataclass
class RunContext:
    """What a run uses but does not save: data, files, environments, the progress bar."""

    config: RunConfig
    data: list[Rows]  # the data set, on each device
    shards: ShardReader
    log: RunLog
    eval_simulators: Simulators | None  # None: no evaluations
    make_simulators: Callable[[], Simulators]  # one per seed, for the online phase
    check: Callable[[], None]  # raises if the run should stop
    on_metrics: Metrics = lambda *_: None
    show_progress: bool = True
    bar: tqdm | None = None
    simulators: Simulators | None = None  # once created
    failure: SimulatorError | None = None  # stops the run at its next step
    block: int = 1  # updates per dispatch of the offline phase
    record_videos: Callable[..., None] = lambda *_: None  # see `RunVideos.record`
    largest_reward: float = 0.0  # largest |reward| so far
    has_warned_of_values: bool = False

    @functools.cached_property
    def exploration_keys(self) -> np.ndarray:
        """The key of each seed's exploration, `[S, 2]`."""
        return np.stack([key_for(seed, 'exploration') for seed in self.config.seeds])

    def write(self, table: str, state: RunState, rows: Sequence[Row]) -> None:
        """Writes rows to a table, and passes them to the callback."""
        self.log.write(table, state.phase, state.step, rows)
        self.on_metrics(table, state.phase, state.step, list(rows))

    def clear_bar(self, _: object = None) -> bool:
        """Clears the progress bar for a log message; a filter of log handlers."""
        if self.bar is not None:
            self.bar.clear()
        return True

    def close_bar(self) -> None:
        """Closes the progress bar and ends its line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def advance(state: RunState, run: RunContext) -> RunState | None:
    """Makes the next step of a run; returns None at its end.

    The device buffers of `state` are donated. Only a report can be interrupted; then `state` stays
    valid, and the report is repeated later.

    Raises:
        SimulatorError: a simulator failed repeatedly. `state` is valid, and the failing episode has
            ended in it, so that the run can continue.
    """
    if run.failure is not None:
        raise run.failure
    if not run.config.steps[state.phase]:
        return _next_phase(state, run)
    _show(state, run)
    stop = next_report(state, run.config)
    if stop is None:
        return _next_phase(state, run)
    if state.phase == 'offline':
        return report(state, run) if state.step == stop else offline_block(state, run, stop)
    if (state.online.env_steps < stop).any():
        return online_chunk(state, run, stop)
    if state.step < stop or state.online.trained_steps.min() < stop:
        return catch_up(state, run, stop)
    return report(state, run)


def next_report(state: RunState, config: RunConfig) -> int | None:
    """Returns the step of the phase at which the next report is due, None at the phase's end.

    Reports are due at step 0, at multiples of `eval_interval` and `log_interval` (if not 0), and at
    the last step.
    """
    end = config.steps[state.phase]
    if state.reported >= end:
        return None
    if state.reported < 0:
        return 0
    eval_interval = config.eval_interval if config.eval_episodes else 0
    return next_stop(state.reported, [eval_interval, config.log_interval], end)


def next_stop(step: int, intervals: Sequence[int], end: int) -> int:
    """Returns the first multiple of an interval after `step`, or the end. Intervals may be 0."""
    return min([end, *((step // interval + 1) * interval for interval in intervals if interval)])


def ends_phase(state: RunState, config: RunConfig) -> bool:
    """Tells whether a phase is complete except for its last report."""
    is_last = state.step == config.steps[state.phase] > state.reported
    return is_last and (
        state.rollout is None or bool((state.rollout.trained_steps == state.step).all())
    )


def is_between_reports(state: RunState, config: RunConfig, end: int) -> bool:
    """Whether a run that ended at online step `end` is in a state that a longer one never has.

    At the end all updates owed are done. With `overlap`, a longer run executes a chunk meanwhile,
    unless it reports at that step.
    """
    if state.rollout is None or not config.overlap or not state.step == end < config.online_steps:
        return False
    due = next_report(state.replace(reported=end - 1), config)
    return due != end and bool((state.rollout.trained_steps == end).all())


def _next_phase(state: RunState, run: RunContext) -> RunState | None:
    run.close_bar()
    if state.phase == PHASES[-1] or not run.config.online_steps:
        return None
    return begin_online(state, run.data, run.config)


def _show(state: RunState, run: RunContext) -> None:
    """Moves the progress bar."""
    if run.bar is None:
        total = run.config.steps[state.phase]
        run.bar = tqdm(
            total=total, initial=state.step, desc=state.phase, unit='step', smoothing=0.05,
            disable=not run.show_progress,
        )  # fmt: skip
    run.bar.update(state.step - run.bar.n)


# ---- reports ------------------------------------------------------------------------------------


def report(state: RunState, run: RunContext) -> RunState:
    """Writes the rows and makes the evaluation that are due at this step.

    Raises:
        NotFinite: a result of the updates or the evaluation is not finite.
    """
    config, end = run.config, run.config.steps[state.phase]
    seeds, rollout, scores = state.seeds, state.rollout, state.scores
    summaries = check_updates(state, run) if state.step else []  # also before an evaluation
    if summaries and is_due(state.step, config.log_interval, end):
        found = diagnoses(state, run)
        rows = [summary.averages | row for summary, row in zip(summaries, found, strict=True)]
        if rollout is not None:
            rows = [_of_episodes(rollout, i) | row for i, row in enumerate(rows)]
            zeros = np.zeros_like(rollout.finished)
            rollout = rollout.replace(finished=zeros, judged=zeros, succeeded=zeros, failures=zeros)
        run.write(state.phase, state, rows)
        seeds = tuple(
            part.replace(totals=updates.zero_totals(part.agents, part.replays, rows))
            for part, rows in zip(seeds, run.data, strict=True)
        )
    if run.eval_simulators is not None and is_due(state.step, config.eval_interval, end):
        if state.step or not scores:  # else the agents have not changed since the offline phase
            policies = [part.agents.policy() for part in seeds]
            found, failure = evaluate(
                policies, run.eval_simulators, config.eval_episodes, config.seeds, run.check
            )
            run.record_videos(policies, state.phase, state.step, run.check)
            scores, run.failure = tuple(found), failure
        run.write('eval', state, scores)
        if run.bar is not None:
            run.bar.set_postfix_str('='.join(headline(scores)))
    return state.replace(
        seeds=seeds, rollout=rollout, scores=scores, reported=state.step, tables=run.log.sizes
    )


def largest(rewards: Any) -> float:
    """Returns the largest absolute value, on the host."""
    return float(abs(rewards).max())


def check_updates(state: RunState, run: RunContext) -> list[updates.Summary]:
    """Returns a summary of each seed's updates since the last row.

    Waits for them. Warns once if values diverge.

    Raises:
        NotFinite: a loss or another logged scalar is not finite.
    """
    config, summaries = run.config, []
    for summary in (x for part in state.seeds for x in updates.summaries(part.totals)):
        i = len(summaries)
        if summary.first_bad is not None:
            # The last update belongs to the last trained step.
            trained = state.step if state.rollout is None else int(state.rollout.trained_steps[i])
            per_step = 1 if state.rollout is None else config.utd_ratio
            step = trained - (summary.updates - 1 - summary.first_bad) // per_step
            raise NotFinite(
                f'{config.env_name}: {", ".join(summary.bad)} of seed {config.seeds[i]} not finite '
                f'at {state.phase} step {step:,}'
            )
        _warn_of_values(config.seeds[i], summary.averages, state, run)
        summaries.append(summary)
    return summaries


def diagnoses(state: RunState, run: RunContext) -> list[dict[str, float]]:
    """Returns the results of `Agent.diagnose` for each seed.

    Raises:
        NotFinite: one of them is not finite.
    """
    found = [
        updates.diagnose(part.agents, part.replays, rows)
        for part, rows in zip(state.seeds, run.data, strict=True)
    ]
    rows = [
        {name: float(values[i]) for name, values in part.items()}
        for part, seeds in zip(jax.device_get(found), state.seeds, strict=True)
        for i in range(seeds.num_seeds)
    ]
    for seed, row in zip(run.config.seeds, rows, strict=True):
        if bad := [name for name, value in row.items() if not math.isfinite(value)]:
            raise NotFinite(
                f'{run.config.env_name}: {", ".join(bad)} of seed {seed} not finite at '
                f'{state.phase} step {state.step:,}'
            )
    return rows


def _warn_of_values(seed: int, averages: Row, state: RunState, run: RunContext) -> None:
    config = run.config
    if run.has_warned_of_values or config.discount >= 1 or not run.largest_reward:
        return
    limit = run.largest_reward / (1 - config.discount)
    for name in ('critic/q_min', 'critic/q_max'):
        value = averages.get(name)
        if value is not None and abs(value) > DIVERGENCE_FACTOR * limit:
            run.has_warned_of_values = True
            logging.warning(
                '%s: %s of seed %d is %.4g at %s step %s, but with rewards up to %.4g and '
                '--discount=%g no value is beyond %.4g: the critic diverges.',
                config.env_name, name, seed, value, state.phase, f'{state.step:,}',
                run.largest_reward, config.discount, limit,
            )  # fmt: skip


def is_due(step: int, interval: int, end: int) -> bool:
    """Whether something done every `interval` steps (0: never) and at the end is due."""
    return step == end or bool(interval and step % interval == 0)


def _of_episodes(rollout: Rollout, seed: int) -> dict[str, float | None]:
    episodes = int(rollout.finished[seed])
    success = float(rollout.succeeded[seed] / episodes) if rollout.judged[seed] else None
    failures = int(rollout.failures[seed])
    return {'episodes': episodes, 'episode_success': success, 'simulator_failures': failures}


# ---- the offline phase --------------------------------------------------------------------------


def offline_block(state: RunState, run: RunContext, stop: int) -> RunState:
    """Makes a block of updates on the data set, then takes the next shard if it is due.

    The block's size doubles until a block takes half a second, to hide the cost of dispatch, and is
    halved above two seconds, so that the progress bar moves and the run can be interrupted.
    """
    config = run.config
    streams = len(run.shards) > 1
    intervals = [config.save_interval, config.dataset_replace_interval if streams else 0]
    num_updates = min(run.block, next_stop(state.step, intervals, stop) - state.step)
    if streams:
        run.shards.read_ahead()  # the previous shard has been dropped
    start = time.perf_counter()
    seeds = []
    for part, data in zip(state.seeds, run.data, strict=True):
        group = updates.group_size(data.device, OFFLINE_GROUP)
        agents, totals = updates.update_many(
            part.agents, part.replays, data, num_updates, part.totals, group
        )
        seeds.append(SeedState(agents, part.replays, totals))
    jax.block_until_ready([part.totals for part in seeds])
    seconds = time.perf_counter() - start
    if seconds < 0.5 and num_updates == run.block:
        run.block *= 2
    elif seconds > 2:
        run.block = max(1, run.block // 2)
    step = state.step + num_updates
    shard = state.shard
    if streams and step % config.dataset_replace_interval == 0:
        shard, rows = run.shards.take()
        run.data = [jax.device_put(rows, old.device) for old in run.data]
        run.largest_reward = max(run.largest_reward, largest(rows.fields['rewards']))
    return state.replace(seeds=tuple(seeds), step=step, shard=shard)


# ---- the online phase ---------------------------------------------------------------------------


def place_simulators(state: RunState, run: RunContext) -> RunState:
    """Begins the next episodes in simulators that have none.

    A resumed run continues its open episode. If its environment does not reproduce it, the episode
    is truncated there, and the next one begins.
    """
    rollout, seeds = state.online, run.config.seeds
    if run.simulators is None:
        run.simulators = run.make_simulators()
    while run.failure is None and (idle := set(range(len(seeds))) - run.simulators.playing):
        starts = {}
        for i in idle:
            starts[i] = Start(episode_seed(seeds[i], int(rollout.episodes[i])))
            if len(actions := rollout.episode_actions[i]):
                known = unstack(rollout.observations, i)
                starts[i] = starts[i]._replace(chunks=[actions], observation=known)
        begun = run.simulators.begin(starts)
        found = {i: observation for i, observation in begun.items() if observation is not None}
        rollout = rollout.replace(observations=_put(rollout.observations, found))
        rollout = _give_up_episodes(rollout, begun, run)
        _check_finite('an observation', rollout.observations, rollout, run)
    return state.replace(rollout=rollout)


def online_chunk(state: RunState, run: RunContext, stop: int) -> RunState:
    """Executes a chunk for each seed that has not reached `stop`.

    With `overlap`, the updates due for a chunk run while the environments execute the next one. So
    the policy that chooses a chunk was trained on all chunks but the last. An episode's end cuts a
    chunk short, so seeds may be at different steps; those that reach `stop` wait for the others.

    Simulators that fail are rebuilt and execute the same chunk. A seed whose simulator fails again
    takes no step; its episode is truncated there and not counted as finished. The next `advance`
    raises the error.
    """
    state = place_simulators(state, run)
    if run.failure is not None:
        return state
    assert run.simulators is not None
    config, rollout = run.config, state.online
    playing = rollout.env_steps < stop
    due = np.where(playing, rollout.env_steps, rollout.trained_steps)
    if not config.overlap:
        state = learn(state, run, due)
    policies = [part.agents.exploration_policy() for part in state.seeds]
    chunks = updates.on_each_device(
        updates.act, policies, rollout.observations, run.exploration_keys, rollout.env_steps
    )
    run.simulators.ask({i: chunks[i] for i in np.flatnonzero(playing).tolist()})
    if config.overlap:
        state = learn(state, run, due)
    try:
        answers = run.simulators.answers()
    except SimulatorError as error:  # cannot be rebuilt, and the previous state was donated
        run.failure = error
        return state
    transitions = {i: answer[0] for i, answer in answers.items() if answer is not None}
    pending = _put(jax.tree.map(np.zeros_like, rollout.pending), transitions)
    _check_finite('a reward', pending['rewards'], rollout, run)
    _check_finite('an observation', pending['observations'], rollout, run)
    _check_finite('an observation', pending['next_observation'], rollout, run)
    run.largest_reward = max(run.largest_reward, largest(pending['rewards']))
    done, taken = pending['done'], pending['length']
    reached = {i: answer[1] for i, answer in answers.items() if answer is not None}
    told = {i: x[2] for i, x in answers.items() if x is not None and x[0]['done']}
    rollout = state.online.with_actions(pending['actions'], taken, done).replace(
        observations=_put(rollout.observations, reached),
        env_steps=rollout.env_steps + taken,
        episodes=rollout.episodes + done,
        pending=pending,
        finished=rollout.finished + done,
        judged=rollout.judged + [told.get(i) is not None for i in range(len(done))],
        succeeded=rollout.succeeded + [told.get(i) is True for i in range(len(done))],
    )
    rollout = _give_up_episodes(rollout, answers, run)
    return state.replace(rollout=rollout, step=min(int(rollout.env_steps.min()), stop))


def _put(stacked: Any, trees: Mapping[int, Any]) -> Any:
    """Returns a tree `[S, ...]` with the trees of some seeds replaced, by number."""

    def put(array: np.ndarray, *new: Any) -> np.ndarray:
        array = array.copy()
        for i, value in zip(trees, new, strict=True):
            array[i] = value
        return array

    return jax.tree.map(put, stacked, *trees.values())


def _give_up_episodes(rollout: Rollout, answers: Mapping[int, Any], run: RunContext) -> Rollout:
    """Truncates the episodes of seeds without an answer, and counts the failures."""
    assert run.simulators is not None
    failures, run.failure = run.simulators.take_failures()
    lost = np.isin(np.arange(len(failures)), [i for i, x in answers.items() if x is None])
    if not (failures.any() or lost.any()):
        return rollout
    rollout = rollout.with_actions(
        rollout.pending['actions'], np.zeros_like(rollout.num_actions), lost
    )
    return rollout.replace(
        episodes=rollout.episodes + lost,
        pending=rollout.pending | {'done': rollout.pending['done'] | lost},
        failures=rollout.failures + failures,
    )


def _check_finite(what: str, tree: Any, rollout: Rollout, run: RunContext) -> None:
    """Raises NotFinite if an output of the simulators, `[S, ...]`, is not finite."""
    for values in jax.tree.leaves(tree):
        if values.dtype.kind == 'f' and not np.isfinite(values).all():
            seed = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise NotFinite(
                f'{run.config.env_name}: the environment of seed {run.config.seeds[seed]} returned '
                f'{what} that is not finite, in the chunk after online step '
                f'{rollout.env_steps[seed]:,}'
            )


def catch_up(state: RunState, run: RunContext, stop: int) -> RunState:
    """Makes all due updates once every seed has reached `stop`."""
    state = learn(state, run, np.full_like(state.online.env_steps, stop))
    return state.replace(step=stop)


def learn(state: RunState, run: RunContext, until: np.ndarray) -> RunState:
    """Stores pending transitions, and makes the updates due for the steps up to `until [S]`.

    It dispatches the work without waiting for it.
    """
    config, rollout = run.config, state.online
    owed = np.maximum(until - np.maximum(rollout.trained_steps, config.start_training - 1), 0)
    owed = (config.utd_ratio * owed).astype(np.int32)
    stores = rollout.pending['length'].any() or rollout.pending['done'].any()
    seeds = []
    for part, data, own in zip(state.seeds, run.data, state.slices, strict=True):
        if stores:
            pending = jax.tree.map(lambda x, own=own: x[own], rollout.pending)
            replays = updates.add_transitions(part.replays, data, pending)
            part = part.replace(replays=replays)
        if owed[own].any():
            owed_by_chunk = config.utd_ratio * part.agents.spec.horizon
            group = updates.group_size(data.device, owed_by_chunk)
            agents, totals = updates.update_many(
                part.agents, part.replays, data, owed[own], part.totals, group
            )
            part = part.replace(agents=agents, totals=totals)
        seeds.append(part)
    nothing = {name: np.zeros_like(rollout.pending[name]) for name in ('length', 'done')}
    rollout = rollout.replace(
        trained_steps=np.maximum(rollout.trained_steps, until), pending=rollout.pending | nothing
    )
    return state.replace(seeds=tuple(seeds), rollout=rollout)
