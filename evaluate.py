"""Evaluates a checkpoint.

python evaluate.py --restore_path=exp/<group>/<env>/<run>/checkpoints/online --eval_episodes=50
"""

import json

from absl import app, flags, logging

from agents import make_agent
from envs import make_vector_env
from utils import checkpoints
from utils.evaluation import evaluate
from utils.seeds import stack

FLAGS = flags.FLAGS

flags.DEFINE_string('restore_path', None, 'Checkpoint.', required=True)
flags.DEFINE_integer('eval_episodes', 50, 'Episodes.', lower_bound=1)
flags.DEFINE_integer('eval_envs', 10, 'Environments in parallel.', lower_bound=1)
flags.DEFINE_integer(
    'seed', 0, 'Of start states and policy noise; that of the run gives its score.'
)


def main(_) -> None:
    if not FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)
    description = checkpoints.read_metadata(FLAGS.restore_path)
    agent = checkpoints.restore(FLAGS.restore_path, make_agent(description, seed=0))
    env = make_vector_env(
        description['env_name'],
        min(FLAGS.eval_envs, FLAGS.eval_episodes),
        description['horizon_length'],
        'evaluate',
        **description['env_options'],
    )
    (scores,) = evaluate(stack([agent]), env, FLAGS.eval_episodes, [FLAGS.seed])
    env.close()
    print(json.dumps(scores))


if __name__ == '__main__':
    app.run(main)
