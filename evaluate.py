"""Evaluates the policies of a run or a checkpoint; prints a line of JSON for each seed.

python evaluate.py --restore_path=exp/<group>/<env>/<run> --eval_episodes=50
"""

import json

from absl import app, flags, logging

import envs
from experiments.command_line import one_line_errors, refuse_arguments
from training import RunConfig, checkpoints, load_policy
from training.evaluation import evaluate
from utils.seeds import stack

FLAGS = flags.FLAGS

flags.DEFINE_string('restore_path', None, 'Run or checkpoint.', required=True)
flags.DEFINE_integer('eval_episodes', 50, 'Episodes.', lower_bound=1)
flags.DEFINE_integer('eval_envs', 10, 'Environments in parallel.', lower_bound=1)
flags.DEFINE_integer('seed', None, 'Of start states and policy noise; default: each seed of the '
                     'run its own, which gives its score.', lower_bound=0,
                     upper_bound=2**32 - 1)  # fmt: skip


def main(argv) -> None:
    refuse_arguments(argv)
    if not FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)
    path = checkpoints.find(FLAGS.restore_path)
    metadata = checkpoints.load(path)[0]
    config = RunConfig.from_json(metadata['config'])
    envs.start_workers(config.task)
    env = envs.make_vector_env(
        config.task,
        min(FLAGS.eval_envs, FLAGS.eval_episodes),
        config.horizon_length,
        'evaluate',
        worker_timeout=config.worker_timeout,
        **config.env_options,
    )
    for trained in metadata['seeds']:
        policy = load_policy(path, trained)
        seed = trained if FLAGS.seed is None else FLAGS.seed
        (scores,) = evaluate([stack([policy])], env, FLAGS.eval_episodes, [seed])
        print(json.dumps({'seed': trained} | scores), flush=True)
    envs.end(env)


if __name__ == '__main__':
    with one_line_errors():
        app.run(main, flags_parser=FLAGS)
