"""RunConfig: every setting of a run, checked, as JSON, with an identity."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

import agents
import envs
from training import checkpoints
from training.code import fingerprint
from utils.errors import UserError

MAX_STEPS = 10**9  # replay indices are int32, and a step may use two rows
DEFAULT_ENV_NAME = 'cube-triple-play-singletask-task2-v0'
SOURCES = ('auto', 'download', 'collect')


def _setting(
    default: Any, help: str, least: int | None = None, *, most: int | None = None,
    choices: tuple[str, ...] = (), decides_result: bool = True,
) -> Any:  # fmt: skip
    """Returns a field with its flag's help, its limits, and whether results depend on it."""
    metadata = {'help': help, 'least': least, 'most': most, 'choices': choices}
    return dataclasses.field(default=default, metadata=metadata | {'decides': decides_result})


_how = functools.partial(_setting, decides_result=False)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Every setting of a run. The fields are the flags of main.py.

    `agent` is an agent's name ('dfp'), the path of its file, or a mapping of settings that override
    the file's. With a mapping, `agent_file` is the name or path, by default its `agent_name`.
    `env_options` are the suite's settings, such as OGBench's `sparse`.

    Raises:
        UserError: the agent or one of its settings is unknown.
    """

    agent: Any = 'dfp'
    agent_file: str = ''
    env_name: str = _setting(DEFAULT_ENV_NAME, 'Environment and task.')
    suite: str | None = _setting(None, 'Suite of your own environments, <module>:<object>.')
    env_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: str | None = _how(None, 'Instead of --agent: a method of experiments/methods.toml.')
    seed: int = _how(0, 'Seed of all random numbers.', 0, most=2**32 - 1)
    num_seeds: int = _how(1, 'Number of seeds trained together: seed, seed + 1, …', 1)

    save_dir: str = _how('exp', 'Runs are written to <save_dir>/<run_group>/….')
    run_group: str = _how('debug', 'Runs that belong together.')
    restore_path: str | None = _setting(None, 'Run or checkpoint whose agent this run starts from.')
    accept_code: bool = _how(False, 'Continue or accept a run made with other code.')
    save_minutes: float = _how(10.0, 'Minutes between checkpoints; 0: off.', 0)
    save_interval: int = _how(0, 'Steps between checkpoints; 0: off.', 0)
    keep_checkpoints: int = _how(2, 'Number of newest checkpoints to keep.', 1)
    compilation_cache_dir: str | None = _how('~/.cache/dfp/jax', 'Cache of programs; empty: none.')
    wandb_mode: str = _how('disabled', 'W&B logging.', choices=('disabled', 'offline', 'online'))
    wandb_project: str = _how('dfp', 'W&B project of the run.')
    wandb_entity: str | None = _how(None, 'W&B user or team; default: yours.')
    wandb_tags: str = _how('', 'W&B tags, separated by commas.')

    offline_steps: int = _how(1_000_000, 'Offline updates.', 0, most=MAX_STEPS)
    online_steps: int = _how(1_000_000, 'Online environment steps.', 0, most=MAX_STEPS)
    horizon_length: int = _setting(5, 'Actions in a chunk (h).', 1)
    discount: float = _setting(0.99, 'Discount per environment step.')
    frame_stack: int = _setting(1, "Frames in the policy's images.", 1)
    p_aug: float = _setting(0.0, 'Probability of random crops of a batch of images.', 0, most=1)
    utd_ratio: int = _setting(1, 'Updates per environment step, online.', 1)
    start_training: int = _setting(5_000, 'Online step at which updates resume.', 0)
    overlap: bool = _setting(True, 'Online, update while the environments step.')
    buffer_size: int = _setting(
        2_000_000, 'Transitions to keep, offline ones too.', 1, most=MAX_STEPS
    )
    offline_batch_ratio: float | None = _setting(None, 'Fraction of offline data.', 0, most=1)

    eval_interval: int = _setting(100_000, 'Steps between evaluations; 0: phase ends only.', 0)
    eval_episodes: int = _setting(50, 'Episodes per evaluation; the paper: 100. 0: none.', 0)
    eval_envs: int = _how(10, 'Parallel evaluation environments, for all seeds together.', 1)
    worker_timeout: float = _how(120.0, 'Seconds to wait for a simulator.', 1, most=86_400)
    video_episodes: int = _how(0, 'Episodes of each seed to film at each evaluation.', 0)
    video_frame_skip: int = _how(3, 'Environment steps per frame of a video.', 1)
    log_interval: int = _setting(5_000, 'Steps between table rows; 0: phase ends only.', 0)

    dataset_source: str = _setting('auto', 'auto: existing files, else download.', choices=SOURCES)
    dataset_proportion: float = _setting(1.0, 'Fraction of each data file to use.', most=1)
    dataset_replace_interval: int = _setting(1_000, 'Updates per file of the data set.', 1)
    collect_episodes: int | None = _setting(
        None, 'With collect; default: as in the public data.', 1
    )

    def __post_init__(self):
        file, settings = self.agent_file, self.agent
        if isinstance(settings, str):
            file, settings = settings, {}
        file = agents.short_name(file or settings.get('agent_name', RunConfig.agent))
        object.__setattr__(self, 'agent_file', file)
        object.__setattr__(self, 'agent', agents.get_config(file, settings).to_dict())
        object.__setattr__(self, 'env_options', dict(self.env_options))

    @property
    def seeds(self) -> list[int]:
        """The seeds trained together."""
        return list(range(self.seed, self.seed + self.num_seeds))

    @property
    def steps(self) -> dict[str, int]:
        """The number of steps of each phase."""
        return {'offline': self.offline_steps, 'online': self.online_steps}

    @property
    def label(self) -> str:
        """The name in folders and pictures: `method`, or else the agent's file."""
        return self.method or pathlib.Path(self.agent_file).stem

    @property
    def episodes_to_collect(self) -> int | None:
        """`collect_episodes` if data is collected, else None."""
        return self.collect_episodes if self.dataset_source == 'collect' else None

    @property
    def simulator_settings(self) -> dict[str, Any]:
        """The keyword arguments of simulators and renderers."""
        return {
            'frame_stack': self.frame_stack,
            'worker_timeout': self.worker_timeout,
            **self.env_options,
        }

    @functools.cached_property
    def task(self) -> envs.Task:
        """The task of `env_name`.

        Raises:
            UserError: the environment or suite is unknown.
        """
        return envs.find_task(self.env_name, self.suite)

    def check(self) -> None:
        """Raises UserError for invalid settings. Starts and writes nothing."""
        for field in dataclasses.fields(self):
            self._check_field(field)
        if not self.offline_steps + self.online_steps:
            raise UserError(
                '--offline_steps=0 --online_steps=0: nothing to do; evaluate.py evaluates'
            )
        if self.restore_path:
            checkpoints.find(self.restore_path)
        if not self.dataset_proportion > 0:
            raise UserError(f'--dataset_proportion={self.dataset_proportion}: must be above 0')
        envs.check_options(self.task.suite, self.env_options)
        agent_class = agents.find_class(self.agent_file)
        agent_class.check_config(ml_collections.ConfigDict(self.agent))
        agent_class.check_horizon(self.horizon_length, self.discount)

    def _check_field(self, field: dataclasses.Field) -> None:
        value, limits = getattr(self, field.name), field.metadata
        if value is None or not limits:
            return
        if limits['least'] is not None and not value >= limits['least']:  # as NaN is not
            raise UserError(f'--{field.name}={value}: must be at least {limits["least"]}')
        if limits['most'] is not None and not value <= limits['most']:
            raise UserError(f'--{field.name}={value}: must be at most {limits["most"]}')
        if limits['choices'] and value not in limits['choices']:
            raise UserError(f'--{field.name}={value}: use {" or ".join(limits["choices"])}')

    @property
    def identity(self) -> str:
        """A hash of the settings that decide the result, without the seed; 8 hexadecimal digits.

        Runs with the same identity differ at most in their seeds and their length. It does not
        depend on where files lie, how often a run is saved or how many environments evaluate it.
        `offline_steps` are part of it if online ones follow: else they are the run's length, as
        `online_steps` always are. So a longer run continues a shorter one. The code of an agent's
        file outside the project is part of it; of the project's code a run keeps hashes itself
        (`training/code.py`).
        """
        decisive = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get('decides', True)
        }
        file = pathlib.Path(decisive.pop('agent_file'))
        code = fingerprint(file.read_text('utf-8')) if file.is_absolute() else str(file)
        decisive['agent'] = self.agent | {'agent_name': code}
        decisive['collect_episodes'] = self.episodes_to_collect
        decisive['offline_steps'] = self.offline_steps if self.online_steps else None
        if self.restore_path:
            decisive['restore_path'] = str(pathlib.Path(self.restore_path).expanduser().resolve())
        suite = self.task.suite
        options = envs.check_options(suite, self.env_options)
        decisive['env_options'] = {
            option.name: options[option.name] for option in suite.options if option.decides_result
        }
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def directory(self) -> pathlib.Path:
        """The run's folder: <save_dir>/<run_group>/<env_name>/<method>-sd<seed>-<identity>."""
        first, last = self.seeds[0], self.seeds[-1]
        seeds = f'sd{first:03d}' + (f'-{last:03d}' if last > first else '')
        folder = pathlib.Path(self.save_dir).expanduser() / self.run_group / self.env_name
        return folder / f'{self.label}-{seeds}-{self.identity}'

    def to_json(self) -> dict[str, Any]:
        """Returns all settings, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> 'RunConfig':
        """Returns the config from the output of `to_json`.

        Raises:
            UserError: a setting is unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise UserError(f'{unknown[0]}: not a setting of a run; use one of {sorted(known)}')
        return cls(**settings)
