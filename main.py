"""Offline-to-online reinforcement learning: one run, from data to learning curve.

python main.py --agent=agents/dfp.py --env_name=cube-double-play-singletask-task2-v0
python main.py --method=QC-FQL --env_name=cube-double-play-singletask-task2-v0
"""

import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from agents import make_agent
from envs import make_dataset, make_env, make_vector_env
from envs.chunks import ActionChunks
from experiments.methods import expand_method
from utils import checkpoints
from utils.evaluation import evaluate
from utils.logs import RunLog, versions
from utils.replay import ReplayBuffer
from utils.training import act, add, averages, train, zero_totals

FLAGS = flags.FLAGS
ENV_NAME = 'cube-triple-play-singletask-task2-v0'  # default
# config_flags looks for its overrides here, so what a method stands for must be in it by now.
ARGV = expand_method(FLAGS.read_flags_from_files(sys.argv), ENV_NAME)

config_flags.DEFINE_config_file(
    'agent', 'agents/dfp.py', 'The method: a file with get_config().', sys_argv=ARGV
)
flags.DEFINE_string('method', None, 'Instead of --agent: a method of the paper, with its settings '
                    'for the task (experiments/methods.toml).')  # fmt: skip
flags.DEFINE_string('env_name', ENV_NAME, 'Environment and task.')
flags.DEFINE_integer('seed', 0, 'Of parameters, batches, exploration and evaluation.')
flags.DEFINE_string('save_dir', 'exp', 'Runs are written to <save_dir>/<run_group>/….')
flags.DEFINE_string('run_group', 'debug', 'Runs that belong together.')
flags.DEFINE_string('restore_path', None, 'Checkpoint to start from.')
flags.DEFINE_enum('wandb_mode', 'disabled', ['disabled', 'offline', 'online'], 'W&B logging.')

flags.DEFINE_integer('offline_steps', 1_000_000, 'Updates on the data set alone.')
flags.DEFINE_integer('online_steps', 1_000_000, 'Environment steps after that.')
flags.DEFINE_integer('horizon_length', 5, 'Actions in a chunk (h).')
flags.DEFINE_float('discount', 0.99, 'Per environment step.')
flags.DEFINE_integer('utd_ratio', 1, 'Updates per environment step, online.')
flags.DEFINE_integer('start_training', 5_000, 'Online step at which updates resume.')
flags.DEFINE_integer('buffer_size', 2_000_000, 'Transitions, offline ones included.')

flags.DEFINE_integer('eval_interval', 100_000, 'Steps between evaluations.')
flags.DEFINE_integer('eval_episodes', 50, 'Episodes per evaluation; the paper: 100.')
flags.DEFINE_integer('eval_envs', 10, 'Environments evaluated in parallel.')
flags.DEFINE_integer('log_interval', 5_000, 'Steps between rows of offline.csv and online.csv.')

flags.DEFINE_bool('sparse', False, 'Turn any non-zero reward into -1.')
flags.DEFINE_enum('success_timing', 'pre', ['pre', 'post'], 'OGBench: judge the state before or '
                  'after the action.')  # fmt: skip
flags.DEFINE_enum('dataset_source', 'auto', ['auto', 'download', 'collect'], 'auto: what is on '
                  'disk, else download.')  # fmt: skip
flags.DEFINE_string('ogbench_dataset_dir', None, 'Data sets; default: ~/.ogbench/data.')
flags.DEFINE_integer('dataset_replace_interval', 1_000, 'Updates before the next file of a data '
                     'set in many files.')  # fmt: skip
flags.DEFINE_integer('collect_episodes', None, 'With --dataset_source=collect; default: as many '
                     'as the public data.')  # fmt: skip


def check_flags() -> None:
    """Raises ValueError for values that cannot work."""
    at_least = {
        'offline_steps': 0, 'online_steps': 0, 'horizon_length': 1, 'utd_ratio': 1,
        'start_training': 0, 'buffer_size': 1, 'eval_interval': 1, 'eval_episodes': 1,
        'eval_envs': 1, 'log_interval': 1, 'dataset_replace_interval': 1,
        'seed': 0,
    }  # fmt: skip
    for name, least in at_least.items():
        value = getattr(FLAGS, name)
        if value < least:
            raise ValueError(f'--{name}={value}: must be at least {least}')
    if not FLAGS.offline_steps + FLAGS.online_steps:
        raise ValueError('--offline_steps=0 --online_steps=0: nothing to do; evaluate.py evaluates')
    if FLAGS.collect_episodes is not None and FLAGS.dataset_source != 'collect':
        raise ValueError(
            f'--collect_episodes={FLAGS.collect_episodes}: has a meaning only with '
            f'--dataset_source=collect, not with {FLAGS.dataset_source}'
        )


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r}: not a flag; flags start with --')
    if not FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)  # orbax has much to say
    check_flags()
    env_options = {'sparse': FLAGS.sparse, 'success_timing': FLAGS.success_timing}
    env = ActionChunks(make_env(FLAGS.env_name, **env_options), FLAGS.horizon_length)
    description = {
        'agent': FLAGS.agent.to_dict(),
        'env_name': FLAGS.env_name,
        'env_options': env_options,
        'observation_dim': env.observation_space.shape[0],
        'action_dim': env.action_space.shape[-1],
        'horizon_length': FLAGS.horizon_length,
        'discount': FLAGS.discount,
    }
    agent = make_agent(description, FLAGS.seed)
    if FLAGS.restore_path:
        agent = checkpoints.restore(FLAGS.restore_path, agent)
    name = FLAGS.method or FLAGS.agent.agent_name
    log = RunLog(FLAGS.save_dir, FLAGS.run_group, FLAGS.env_name, name, FLAGS.seed)
    dataset = make_dataset(
        FLAGS.env_name,
        FLAGS.ogbench_dataset_dir,
        FLAGS.dataset_source,
        sparse=FLAGS.sparse,
        num_episodes=FLAGS.collect_episodes,
    )
    log.start(
        {'flags': {name: FLAGS[name].value for name in flags_of_this_program()}}
        | {'agent': description['agent'], 'data': dataset.provenance, 'versions': versions()},
        FLAGS.wandb_mode,
    )
    buffer = ReplayBuffer.create(dataset.load(0), FLAGS.buffer_size)
    eval_env = make_vector_env(
        FLAGS.env_name,
        min(FLAGS.eval_envs, FLAGS.eval_episodes),
        FLAGS.horizon_length,
        **env_options,
    )
    print(
        f'{dataset.name} ({dataset.provenance["source"]}): {int(buffer.num_starts):,} transitions'
    )
    print(f'Writing to {log.directory}')

    scores = {}

    def evaluate_at(phase: str, step: int, agent, bar: tqdm) -> None:
        if step or not scores:  # else the agent is still the one that ended the offline phase
            scores.update(evaluate(agent, eval_env, FLAGS.eval_episodes, seed=FLAGS.seed))
        log.evaluation(phase, step, scores)
        bar.set_postfix(success=f'{100 * scores["success"]:.0f}%')

    phases = [('offline', FLAGS.offline_steps), ('online', FLAGS.online_steps)]
    for phase, num_steps in phases:
        if not num_steps:
            continue
        with tqdm(total=num_steps, desc=phase, unit='step', smoothing=0.05) as bar:
            if phase == 'offline':
                agent, buffer = offline(agent, buffer, dataset, log, evaluate_at, bar)
            else:
                agent, buffer = online(agent, buffer, env, log, evaluate_at, bar)
        checkpoints.save(log.directory / 'checkpoints' / phase, agent, description)
    eval_env.close()
    log.finish()
    print(f'Final success {100 * scores["success"]:.0f}%: {log.directory / "learning_curve.png"}')


def offline(agent, buffer, dataset, log, evaluate_at, bar):
    """Updates on the data set; see `main` for the arguments."""
    intervals = [FLAGS.eval_interval, FLAGS.log_interval]
    if len(dataset) > 1:
        intervals.append(FLAGS.dataset_replace_interval)
    totals = zero_totals(agent, buffer)
    evaluate_at('offline', 0, agent, bar)
    step, block = 0, 1
    while step < FLAGS.offline_steps:
        num_updates = min(block, next_stop(step, intervals, FLAGS.offline_steps) - step)
        start = time.perf_counter()
        agent, totals = train(agent, buffer, num_updates, totals)
        jax.block_until_ready(totals)
        # Long enough for dispatching to cost nothing, short enough for the bar to move.
        seconds = time.perf_counter() - start
        block = max(1, block * 2 if seconds < 0.5 else block // 2 if seconds > 2 else block)
        step += num_updates
        bar.update(num_updates)
        if is_stop(step, FLAGS.log_interval, FLAGS.offline_steps):
            log.training('offline', step, averages(totals))
            totals = zero_totals(agent, buffer)
        if is_stop(step, FLAGS.eval_interval, FLAGS.offline_steps):
            evaluate_at('offline', step, agent, bar)
        if len(dataset) > 1 and step % FLAGS.dataset_replace_interval == 0:
            shard = step // FLAGS.dataset_replace_interval % len(dataset)
            buffer = buffer.load(dataset.load(shard))
    return agent, buffer


def online(agent, buffer, env, log, evaluate_at, bar):
    """Acts chunk by chunk, with as many updates as steps; see `main` for the arguments.

    The updates that step t owes are made while the environment plays the chunk after it. So a chunk
    is chosen with all updates of the chunk before the last made, and they see all data up to then.
    """
    agent = agent.begin_online()
    rng = jax.random.PRNGKey(FLAGS.seed)
    totals = zero_totals(agent, buffer)
    evaluate_at('online', 0, agent, bar)
    observation, _ = env.reset(seed=FLAGS.seed)
    step = trained = 0  # environment steps taken; those whose updates are made
    episodes = []
    intervals = [FLAGS.eval_interval, FLAGS.log_interval]

    def catch_up(until: int):
        """Makes the updates owed for the steps up to `until`, without waiting for them."""
        nonlocal trained
        owed = until - max(trained, FLAGS.start_training - 1)
        trained = until
        if owed <= 0:
            return agent, totals
        return train(agent, buffer, FLAGS.utd_ratio * owed, totals)

    while step < FLAGS.online_steps:
        chunk = act(agent, observation, rng, step)
        agent, totals = catch_up(step)
        observation, _, terminated, truncated, info = env.step(
            np.asarray(chunk)[: FLAGS.online_steps - step]
        )
        buffer = add(buffer, info['transitions'])
        step += info['transitions']['length']
        bar.update(info['transitions']['length'])
        if terminated or truncated:
            episodes.append(float(info['success']))
            observation, _ = env.reset()
        for stop in stops(trained, step, intervals, FLAGS.online_steps):
            agent, totals = catch_up(stop)
            if is_stop(stop, FLAGS.log_interval, FLAGS.online_steps):
                success = np.mean(episodes) if episodes else float('nan')
                row = {'episodes': len(episodes), 'episode_success': success}
                log.training('online', stop, row | averages(totals))
                totals, episodes = zero_totals(agent, buffer), []
            if is_stop(stop, FLAGS.eval_interval, FLAGS.online_steps):
                evaluate_at('online', stop, agent, bar)
    return agent, buffer


def next_stop(step: int, intervals: list[int], end: int) -> int:
    """Returns the first multiple of an interval after `step`, or the end."""
    return min([end] + [(step // interval + 1) * interval for interval in intervals])


def stops(after: int, until: int, intervals: list[int], end: int) -> Iterator[int]:
    """Yields the multiples of the intervals, and the end, that lie in (after, until]."""
    while after < until:
        after = next_stop(after, intervals, end)
        if after <= until:
            yield after


def is_stop(step: int, interval: int, end: int) -> bool:
    """Tells whether something done every `interval` steps and at the end is due."""
    return step % interval == 0 or step == end


def flags_of_this_program() -> list[str]:
    """Names of the flags defined above, less `--agent`, which is a tree of its own."""
    here = FLAGS.find_module_defining_flag('env_name')
    names = [flag.name for flag in FLAGS.flags_by_module_dict()[here]]
    return sorted(name for name in names if name.partition('.')[0] != 'agent')


if __name__ == '__main__':
    app.run(main, argv=ARGV)
