"""Evaluates the policies of a run or a checkpoint; prints a line of JSON per seed.

python evaluate.py --restore_path=exp/<group>/<env>/<run> --eval_episodes=50 --video=policy.mp4
"""

import experiments.interruptible  # noqa: F401

# isort: split
import contextlib
import json
import pathlib

from absl import app, flags, logging

import envs
from experiments.command_line import one_line_errors, refuse_arguments
from training import RunConfig, load_agents
from training.clips import SUFFIXES, check_path, grid, strip, write_picture, write_video
from training.evaluation import evaluate
from training.videos import FPS, open_renderer, record
from utils.seeds import stack

FLAGS = flags.FLAGS

flags.DEFINE_string('restore_path', None, 'Run or checkpoint.', required=True)
flags.DEFINE_integer('eval_episodes', 50, 'Episodes.', lower_bound=1)
flags.DEFINE_integer('eval_envs', 10, 'Environments in parallel.', lower_bound=1)
flags.DEFINE_integer('seed', None, 'Seed of start states and policy noise; default: the seed of '
                     "each policy, which reproduces the run's scores.", lower_bound=0,
                     upper_bound=2**32 - 1)  # fmt: skip
flags.DEFINE_string('video', None, 'Film the first episodes into this .mp4, .gif or .png (a '
                    'strip), one file per seed.')  # fmt: skip
flags.DEFINE_integer('video_episodes', 4, 'Episodes in the video.', lower_bound=1)
flags.DEFINE_integer('video_frame_skip', 3, 'Environment steps per frame.', lower_bound=1)
flags.DEFINE_bool('video_values', False, 'Draw the Q values of the proposals beside the episodes.')


def main(argv) -> None:
    refuse_arguments(argv)
    if not FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)
    agents, metadata = load_agents(FLAGS.restore_path)
    config = RunConfig.from_json(metadata['config'])
    with contextlib.ExitStack() as opened:
        renderer = None
        if FLAGS.video:
            check_path(FLAGS.video, 'video', (*SUFFIXES, '.png'))
            renderer = open_renderer(config, FLAGS.video_frame_skip)
            opened.callback(renderer.close)
        simulators = envs.make_simulators(
            config.task,
            min(FLAGS.eval_envs, FLAGS.eval_episodes),
            config.horizon_length,
            frame_stack=config.frame_stack,
            worker_timeout=config.worker_timeout,
            **config.env_options,
        )
        opened.callback(simulators.end)
        for agent, trained in zip(agents, metadata['seeds'], strict=True):
            policy = agent.policy()
            seed = trained if FLAGS.seed is None else FLAGS.seed
            (scores,), failure = evaluate(
                [stack([policy])], simulators, FLAGS.eval_episodes, [seed]
            )
            print(json.dumps({'seed': trained} | scores), flush=True)
            if failure is not None:
                raise failure
            if renderer is not None:
                with_values = FLAGS.video_values
                clips = record(policy, renderer, FLAGS.video_episodes, seed, with_values)
                several = len(metadata['seeds']) > 1
                film = video_path(trained, several)
                if film.suffix == '.png':
                    write_picture(film, strip(clips, with_values=with_values))
                else:
                    write_video(film, grid(clips, with_values), FPS)


def video_path(seed: int, several: bool) -> pathlib.Path:
    """Returns the path of a seed's video, which contains the seed if there are several."""
    path = pathlib.Path(FLAGS.video)
    return path.with_stem(f'{path.stem}-sd{seed:03d}') if several else path


if __name__ == '__main__':
    with one_line_errors():
        app.run(main, flags_parser=FLAGS)
