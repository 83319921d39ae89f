"""A run from its config to its result: start, save, interrupt, continue, end."""

import contextlib
import dataclasses
import logging
import pathlib
import shutil
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import envs
from agents import make_agent
from agents.base import Agent
from training import checkpoints, code, loop
from training import state as states
from training.checkpoints import Arrays, Checkpoints
from training.config import RunConfig
from training.devices import describe_machine, device_memory, set_up_jax, start_jax
from training.interruption import Interrupted, Interruption
from training.logs import (
    RunFolder,
    RunLog,
    cannot_write,
    newest_copy,
    next_copy,
    read_json,
    read_status,
    versions,
    write_json,
)
from training.shards import ShardReader
from training.state import RunState
from training.videos import RunVideos
from utils.errors import NotFinite, UserError
from utils.host import settle
from utils.seeds import unstack
from utils.spec import Spec


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
        directory: the run's folder.
        scores: of each seed at the last evaluation: success (None if the environment does not tell
            it), return, length.
        was_complete: where the run was, such as 'online step 60', if there was nothing left to do.
    """

    directory: pathlib.Path
    scores: tuple[dict[str, float | None], ...]
    was_complete: str = ''


def train(
    config: RunConfig,
    on_metrics: loop.Metrics = lambda *_: None,
    fresh: bool = False,
    show_progress: bool = True,
) -> Result:
    """Trains the run that a config describes, or continues it where it was left.

    A finished run continues if the config asks for more steps. An offline run that gets its first
    online steps becomes another run, in a folder of its own.

    Args:
        config: of the run.
        on_metrics: called with every row of the tables, as `(table, phase, step, rows)`: table
            'offline', 'online' or 'eval'; one row for each seed.
        fresh: starts a new run beside one of the same config, instead of continuing that.
        show_progress: whether to print progress.

    Raises:
        UserError: a setting cannot work, data or a checkpoint is not what is needed, or the code
            or the data has changed since the run learned something.
        SimulatorError: a simulator failed again and again, see `envs.simulators.Simulators`.
        Interrupted: a signal asked the run to stop. Its state is saved; call again to continue.

    Whatever `on_metrics` raises is raised here, too, after the run's state is saved.
    """
    settle()
    config.check()
    place = next_copy(config.directory) if fresh else newest_copy(config.directory)
    status = read_status(place)
    complete = is_complete(config, status)
    origin = None if fresh or complete else _offline_run(config, place)
    if problem := why_stale(config, origin.parents[1] if origin else place):
        raise UserError(problem)
    if complete:
        where = f'{status["phase"]} step {status["step"]:,}'
        return Result(place, tuple(status.get('scores', ())), was_complete=where)
    if status.get('status') == 'done' and not _checkpoints_in(place):
        raise UserError(f'{place}: its checkpoints are gone; start a new run with --fresh')
    set_up_jax(config.num_seeds, config.compilation_cache_dir)
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        try:
            run = _Run(config, place, origin, interruption, on_metrics, show_progress, stack)
        except Exception:
            if not interruption.received:
                raise
            # Libraries may have replaced the exception.
            raise interruption.while_starting() from None
        return Result(place, run.advance_to_the_end())


def is_complete(config: RunConfig, status: Mapping[str, Any]) -> bool:
    """Whether a run with this status has all the steps that a config asks for, or more."""
    more = status.get('step', 0) - config.steps.get(status.get('phase', ''), 0)
    return more > 0 or (more == 0 and status.get('status') == 'done')


def _checkpoints_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob('checkpoints/[!.]*'))


def _offline_run(config: RunConfig, place: pathlib.Path) -> pathlib.Path | None:
    """Returns a checkpoint that saves a new run at `place` offline steps, or None.

    It is the last one, within this run's offline steps, of the same run without an online phase.
    """
    if not config.online_steps or _checkpoints_in(place):
        return None
    alone = newest_copy(dataclasses.replace(config, online_steps=0).directory)
    end = f'offline-{config.offline_steps:09d}.npz'
    return max((path for path in _checkpoints_in(alone) if path.name <= end), default=None)


def why_stale(config: RunConfig, folder: pathlib.Path) -> str:
    """Returns in one line what has changed since a run was made, and what to do; '' if nothing.

    That is the code (not with `accept_code`) and, of a complete run, the data. Data that is not
    here, and would have to be downloaded or collected, is not compared. A run that continues
    compares its data later.

    Args:
        config: of the run.
        folder: of the run. As long as it has no checkpoint, the run begins anew anyway.
    """
    status = read_status(folder)
    done = is_complete(config, status)
    if not (done or _checkpoints_in(folder)):
        return ''
    files = code.changed(status.get('code', {}), code.fingerprints(config.agent_file))
    if files and not config.accept_code:
        named = ', '.join(files[:3]) + (f' and {len(files) - 3} more files' if files[3:] else '')
        accepted = (
            'takes its result as it is' if done else 'continues it with the code as it is now'
        )
        return (
            f'{folder}: {named} changed since this run; --fresh starts a new one beside it, '
            f'--accept_code {accepted}'
        )
    known = read_json(folder / 'flags.json').get('data', {}).get('fingerprint')
    if not done or known is None:
        return ''
    try:
        dataset = envs.make_dataset(config.task, source='here', **config.env_options)
    except (envs.DatasetError, OSError):
        return ''
    return _other_data(folder) if known != dataset.fingerprint else ''


def _other_data(folder: pathlib.Path) -> str:
    return (
        f'{folder}: this run was made with other data of the same name; restore it, or start a new '
        'run with --fresh'
    )


class _Run:
    """A running run: its `state` and `context`."""

    def __init__(
        self,
        config: RunConfig,
        place: pathlib.Path,
        origin: pathlib.Path | None,
        interruption: Interruption,
        on_metrics: loop.Metrics,
        show_progress: bool,
        stack: contextlib.ExitStack,
    ):
        """Opens everything; what is slow starts first, in the background.

        Args:
            config, on_metrics, show_progress: see `train`.
            place: of the run's folder.
            origin: checkpoint of another run that this one continues.
            interruption: tells whether to stop.
            stack: closes what is opened here.
        """
        self.config, self.interruption, self._stack = config, interruption, stack
        self.code = code.fingerprints(config.agent_file)
        say = print if show_progress else lambda *_: None
        self.folder = RunFolder(place)
        stack.callback(self.folder.close)
        stack.push(self._note_error)
        self.repeats = True  # whether the environment is deterministic
        per_seed = max(1, min(config.eval_envs // config.num_seeds, config.eval_episodes))
        eval_simulators = None
        if config.eval_episodes:  # they start while the data is read
            eval_simulators = self._open_simulators(per_seed * config.num_seeds)
        probe = eval_simulators or (self._open_simulators(1) if config.online_steps else None)
        self.machine = describe_machine()
        say('On {host}: {device}, Python {python}: {command}'.format(**self.machine))
        dataset = envs.make_dataset(
            config.task,
            source=config.dataset_source,
            num_episodes=config.episodes_to_collect,
            **config.env_options,
        )
        self.fingerprint = dataset.fingerprint
        self.checkpoints = Checkpoints(place / 'checkpoints', config.keep_checkpoints)
        stack.callback(self.checkpoints.close)
        saved = self._newest_checkpoint(origin)
        first = saved[0]['shard'] if saved else 0
        shards = ShardReader(dataset, first, config.dataset_proportion, config.horizon_length)
        stack.callback(shards.close)
        shard, rows = shards.take()
        whence = dataset.provenance['source']
        say(f'{dataset.name} ({whence}): {int(rows.num_starts):,} transitions')
        self.description = describe(config, Spec.of(rows.fields))
        data = [jax.device_put(rows, device) for device in jax.local_devices()[: config.num_seeds]]
        self.state = self._first_state(saved, data, shard)
        self.saved = self.state if saved and not origin else None  # what the last save has
        self.last_save = time.monotonic()
        self._describe(dataset.provenance | {'fingerprint': dataset.fingerprint})
        seconds = saved[0]['seconds'] if saved else 0.0
        self.log = RunLog(place, config, self.state.tables, seconds)
        stack.callback(self.log.close)
        videos = RunVideos(config, place / 'videos')
        stack.callback(videos.close)
        self.context = loop.RunContext(
            config=config,
            data=data,
            shards=shards,
            log=self.log,
            eval_simulators=eval_simulators,
            make_simulators=partial(self._open_simulators, config.num_seeds),
            check=interruption.check,
            on_metrics=on_metrics,
            show_progress=show_progress,
            record_videos=videos.record,
            largest_reward=loop.largest(rows.fields['rewards']),
        )
        stack.callback(self.context.close_bar)
        for handler in logging.getLogger().handlers:
            handler.addFilter(self.context.clear_bar)
            stack.callback(handler.removeFilter, self.context.clear_bar)
        if probe is not None:
            self.repeats = probe.check_repeats()
            if probe is not eval_simulators:
                probe.end()
        if not self.repeats:
            logging.warning(
                '%s: the environment is not deterministic: reset(seed=0) and the same action had '
                'another outcome the second time. A resumed run truncates its open episode, and '
                'ends with other bits than an uninterrupted one.', config.env_name,
            )  # fmt: skip
        whence = f' from {origin}' if origin else ''
        say(f'Resuming at {self.where}{whence} in {place}' if saved else f'Writing to {place}')
        interruption.wait_for_check()

    def _open_simulators(self, num_envs: int) -> envs.Simulators:
        config = self.config
        simulators = envs.make_simulators(
            config.task, num_envs, config.horizon_length, **config.simulator_settings
        )
        self._stack.callback(simulators.end)
        simulators.repeats = self.repeats
        return simulators

    def _note_error(self, kind: type | None, error: BaseException | None, _) -> None:
        """Writes the exception that ended the run into its status."""
        if error is None or read_status(self.folder.path).get('status', 'done') == 'done':
            return
        with contextlib.suppress(UserError):  # a disk that fails has been reported already
            if isinstance(error, Interrupted):
                self.folder.write_status('interrupted')
            else:
                self.folder.write_status('failed', error=f'{type(error).__name__}: {error}')

    def _newest_checkpoint(self, origin: pathlib.Path | None) -> tuple[dict, Arrays] | None:
        place, config = self.folder.path, self.config
        saved = checkpoints.load(origin) if origin else self.checkpoints.newest()
        if not saved:
            return None
        phase, step = saved[0]['phase'], saved[0]['step']
        if saved[0]['data'] != self.fingerprint:
            raise UserError(_other_data(origin.parents[1] if origin else place))
        if step > config.steps[phase]:
            raise UserError(
                f'{place}: is at {phase} step {step:,} already, beyond --{phase}_steps='
                f'{config.steps[phase]}; set more steps, or start a new run with --fresh'
            )
        for table in origin.parents[1].glob('*.csv') if origin else ():
            shutil.copy(table, place)
        return saved

    def _first_state(self, saved: tuple[dict, Arrays] | None, data: list, shard: int) -> RunState:
        """Returns the saved state, or the initial one."""
        config = self.config
        state = states.create(self.description, config.seeds, data, config.buffer_size)
        if saved:
            where = str(self.folder.path)
            state = states.from_arrays(*saved, state, data, config, where)
            if loop.is_between_reports(state, config, saved[0]['config']['online_steps']):
                logging.warning(
                    '%s: ended at online step %s, which is not a multiple of --log_interval or '
                    '--eval_interval. A longer run does not wait for its updates there, so this '
                    'one continues, but its bits will differ.', where, f'{state.step:,}',
                )  # fmt: skip
            return state.replace(shard=shard)
        if config.restore_path:
            agents, metadata = load_agents(config.restore_path, self.description)
            by_seed = dict(zip(metadata['seeds'], agents, strict=True))
            agents = [by_seed.get(seed, agents[0]) for seed in config.seeds]
            state = states.with_agents(state, agents, config.seeds)
        return state.replace(shard=shard)

    def _describe(self, provenance: dict) -> None:
        """Writes `flags.json` and `status.json`."""
        path, found = self.folder.path, versions()
        settings = self.config.to_json()
        settings = {'agent': settings.pop('agent'), 'flags': settings}
        settings |= {'identity': self.config.identity, 'data': provenance, 'versions': found}
        settings['machine'] = self.machine
        if self.saved:
            settings |= read_json(path / 'flags.json')  # of the run's start, except its length
        settings['flags'] |= {f'{phase}_steps': n for phase, n in self.config.steps.items()}
        with cannot_write(path):
            write_json(path / 'flags.json', settings)
        start = {'time': time.strftime('%Y-%m-%d %H:%M:%S %z'), 'commit': found['commit']}
        start |= {name: self.machine[name] for name in ('host', 'device', 'command')}
        starts = [*read_status(path).get('starts', []), start | self.position]
        self.folder.write_status(
            'running', starts=starts, error=None, code=self.code, **self.position
        )

    @property
    def position(self) -> dict[str, Any]:
        """Where the run is."""
        return {'phase': self.state.phase, 'step': self.state.step}

    @property
    def where(self) -> str:
        """The position, in words."""
        return f'{self.state.phase} step {self.state.step:,}'

    def advance_to_the_end(self) -> tuple[dict[str, float | None], ...]:
        """Runs to the end; returns the scores of the last evaluation.

        Raises:
            UserError: the run cannot continue.
            Interrupted: a signal stopped it; its state is saved.
        """
        try:
            while (state := self._advance()) is not None:
                reported, self.state = state.reported > self.state.reported, state
                if reported:
                    self.folder.write_status('running', **self.position, **device_memory())
        except NotFinite as error:
            self.checkpoints.wait()
            raise UserError(f'{error}; {self._last_checkpoint()}') from None
        self.checkpoints.wait()
        scores = self.state.scores
        self.log.draw()
        self.folder.write_status('done', scores=list(scores), **self.position, **device_memory())
        return scores

    def _advance(self) -> RunState | None:
        """Saves if due, and makes the next step."""
        if self._save_is_due():
            self._save()
        try:
            self.interruption.check()
            return loop.advance(self.state, self.context)
        except (Interrupted, envs.SimulatorError) as error:
            how = self._save_and_wait()
            self.folder.write_status('running', **self.position)
            if isinstance(error, Interrupted):
                error.args = (f'{error} at {self.where}; {how}',)
            else:
                error.args = (f'{error}. At {self.where} {how}; start it again to continue',)
            raise
        except UserError:
            raise
        except BaseException:  # of `on_metrics`, for one; updates that fail leave no state
            if not any(x.is_deleted() for x in jax.tree.leaves(self.state.seeds)):
                with contextlib.suppress(UserError):
                    self._save_and_wait()
            raise

    def _save_is_due(self) -> bool:
        config, step = self.config, self.state.step
        if loop.next_report(self.state, config) is None:
            return False  # the phase's end is saved already
        if loop.ends_phase(self.state, config):
            return True
        if config.save_minutes and time.monotonic() - self.last_save > 60 * config.save_minutes:
            return True
        if not config.save_interval or not step:
            return False
        last = self.saved.step if self.saved and self.saved.phase == self.state.phase else 0
        return step // config.save_interval > last // config.save_interval

    def _save(self) -> None:
        """Starts to write a checkpoint of the state, unless it was saved last.

        Raises:
            NotFinite: a loss or a parameter is not finite. Nothing is saved then.
        """
        if self.state is self.saved:
            return
        loop.check_updates(self.state, self.context)
        arrays, metadata = states.to_arrays(self.state)
        if name := states.not_finite(arrays):
            raise NotFinite(f'{self.config.env_name}: {name} not finite at {self.where}')
        metadata |= {
            'config': self.config.to_json(),
            'description': self.description,
            'seeds': self.config.seeds,
            'data': self.fingerprint,
            'seconds': self.log.seconds,
        }
        self.log.sync()
        self.checkpoints.save(f'{self.state.phase}-{self.state.step:09d}', arrays, metadata)
        self.saved, self.last_save = self.state, time.monotonic()

    def _save_and_wait(self) -> str:
        """Saves the state; returns the outcome in words."""
        self._save()
        if self.checkpoints.wait():
            return 'its state is saved'
        return f'its state could not be saved; {self._last_checkpoint()}'

    def _last_checkpoint(self) -> str:
        last = self.checkpoints.last
        return f'its last good checkpoint is {last}' if last else 'it has no checkpoint yet'


def describe(config: RunConfig, spec: Spec) -> dict[str, Any]:
    """Returns the description of a run's agents, for `make_agent`, on data with this spec."""
    return {
        'agent': config.agent,
        'agent_file': config.agent_file,
        'transition': spec.to_json(),
        'horizon_length': config.horizon_length,
        'discount': config.discount,
        'frame_stack': config.frame_stack,
        'p_aug': config.p_aug,
    }


def load_agents(
    path: str | pathlib.Path, description: dict | None = None
) -> tuple[list[Agent], dict]:
    """Loads the agents of all seeds that were trained together.

    Args:
        path: of a checkpoint, or of a run, for its newest intact checkpoint.
        description: of the agents that the arrays must fit; by default the checkpoint's.

    Returns:
        The agents, in the order of the metadata's `seeds`, and the checkpoint's metadata.

    Raises:
        CheckpointError: there is no intact checkpoint, or it is of another agent.
    """
    metadata, arrays = checkpoints.load(path, 'agents')
    start_jax()
    num_seeds = len(metadata['seeds'])
    one = jax.eval_shape(partial(make_agent, description or metadata['description'], 0))
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_seeds, *x.shape), x.dtype), one)
    stacked = checkpoints.unflatten({'agents': template}, arrays, str(path))['agents']
    return [jax.tree.map(jnp.asarray, unstack(stacked, i)) for i in range(num_seeds)], metadata


def load_agent(
    path: str | pathlib.Path, seed: int | None = None, description: dict | None = None
) -> tuple[Agent, dict]:
    """Loads the agent of one seed.

    Args:
        path, description: see `load_agents`.
        seed: one of the seeds trained together; if None or not among them, the first.

    Returns, raises: see `load_agents`.
    """
    agents, metadata = load_agents(path, description)
    seeds = metadata['seeds']
    return agents[seeds.index(seed) if seed in seeds else 0], metadata


def load_policy(path: str | pathlib.Path, seed: int | None = None) -> Agent:
    """Loads the evaluation policy, with `sample_actions(observations, rng) -> [..., h, d_a]`.

    Args, raises: see `load_agent`.
    """
    return load_agent(path, seed)[0].policy()
