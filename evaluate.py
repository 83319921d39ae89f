"""Evaluates the policies of a run or a checkpoint; prints a line of JSON per seed.

python evaluate.py --restore_path=exp/<group>/<env>/<run> --eval_episodes=50 --video=policy.mp4

With another task of the same sizes, options of its suite, and another number of proposals:

python evaluate.py --restore_path=<run> --env_name=<task> --success_timing=post --num_samples=1
"""

import experiments.interruptible  # noqa: F401

# isort: split
import contextlib
import dataclasses
import json
import pathlib
import sys
from functools import partial
from typing import Any

from absl import app, flags, logging
from gymnasium.spaces import Dict

import envs
from experiments.command_line import one_line_errors, refuse_arguments
from experiments.run_flags import define_options, given_options
from training import RunConfig, load_agents
from training.clips import SUFFIXES, check_path, grid, strip, write_picture, write_video
from training.evaluation import evaluate
from training.videos import FPS, open_renderer, record
from utils.errors import UserError
from utils.seeds import stack
from utils.spec import Spec

FLAGS = flags.FLAGS

flags.DEFINE_string('restore_path', None, 'Run or checkpoint.', required=True)
flags.DEFINE_integer('eval_episodes', 50, 'Episodes.', lower_bound=1)
flags.DEFINE_integer('eval_envs', 10, 'Environments in parallel.', lower_bound=1)
flags.DEFINE_integer(
    'seed', None, "Of start states and noise; default: each policy's.", 0, 2**32 - 1
)
flags.DEFINE_string('env_name', None, "Another task of the same sizes; default: the run's.")
flags.DEFINE_string('suite', None, "Suite of the task and its options; default: the run's.")
flags.DEFINE_integer('num_samples', None, "Proposals to play the best of; default: the run's.", 1)
flags.DEFINE_string('video', None, 'Film into this .mp4, .gif or .png (a strip), a file per seed.')
flags.DEFINE_integer('video_episodes', 4, 'Episodes in the video.', lower_bound=1)
flags.DEFINE_integer('video_frame_skip', 3, 'Environment steps per frame.', lower_bound=1)
flags.DEFINE_bool('video_values', False, 'Draw the Q values of the proposals beside the episodes.')


def main(argv, options: list[envs.Option]) -> None:
    refuse_arguments(argv)
    if not FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)
    agents, metadata = load_agents(FLAGS.restore_path)
    config = evaluated(RunConfig.from_json(metadata['config']), options, agents[0].spec)
    num = FLAGS.num_samples or agents[0].config.eval_num_samples
    with contextlib.ExitStack() as opened:
        if FLAGS.video:
            check_path(FLAGS.video, 'video', (*SUFFIXES, '.png'))
            renderer = open_renderer(config, FLAGS.video_frame_skip)
            opened.callback(renderer.close)
        num_envs, settings = min(FLAGS.eval_envs, FLAGS.eval_episodes), config.simulator_settings
        simulators = envs.make_simulators(config.task, num_envs, config.horizon_length, **settings)
        opened.callback(simulators.end)
        for agent, trained in zip(agents, metadata['seeds'], strict=True):
            chosen = agent.config._replace(eval_num_samples=num)
            policy = agent.replace(config=chosen).policy()
            seed = trained if FLAGS.seed is None else FLAGS.seed
            (scores,), failure = evaluate(
                [stack([policy])], simulators, FLAGS.eval_episodes, [seed]
            )
            print(json.dumps({'seed': trained} | scores), flush=True)
            if failure is not None:
                raise failure
            if FLAGS.video:
                film = pathlib.Path(FLAGS.video)
                if len(agents) > 1:
                    film = film.with_stem(f'{film.stem}-sd{trained:03d}')
                values = FLAGS.video_values
                clips = record(policy, renderer, FLAGS.video_episodes, seed, values)
                if film.suffix == '.png':
                    write_picture(film, strip(clips, with_values=values))
                else:
                    write_video(film, grid(clips, values), FPS)


def evaluated(config: RunConfig, options: list[envs.Option], spec: Spec) -> RunConfig:
    """Returns a run's config with the task and suite options from the flags.

    Raises:
        UserError: the task's sizes differ from those of the agent's `spec`.
    """
    env_name, suite = FLAGS.env_name or config.env_name, FLAGS.suite or config.suite
    task = envs.find_task(env_name, suite)
    given = given_options(FLAGS, options, task.suite)
    if task.suite is config.task.suite:
        given = config.env_options | given
    changed = dataclasses.replace(config, env_name=env_name, suite=suite, env_options=given)
    if changed == config:
        return config
    env = envs.make_env(task, **given)
    found = {'observations': shapes(env.observation_space), 'actions': env.action_space.shape}
    env.close()
    learned = {name: spec.shapes(name) for name in found}
    if found != learned:
        raise UserError(
            f'--env_name={env_name}: has {found}, but the policy was trained with {learned} of '
            f'{config.env_name}; choose a task of these sizes'
        )
    return changed


def shapes(space: Any) -> Any:
    return {k: box.shape for k, box in space.items()} if isinstance(space, Dict) else space.shape


if __name__ == '__main__':
    with one_line_errors():
        first = flags.FlagValues()
        flags.DEFINE_string('suite', None, '', first)
        first(sys.argv, known_only=True)
        options = define_options(FLAGS, first.suite)
        app.run(partial(main, options=options), flags_parser=FLAGS)
