"""Offline-to-online reinforcement learning: one run, from data to learning curve.

python main.py --agent=agents/dfp.py --env_name=cube-double-play-singletask-task2-v0
python main.py --method=QC-FQL --env_name=cube-double-play-singletask-task2-v0
"""

import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from agents import make_agent
from envs import make_dataset, make_env, make_vector_env, start_workers
from experiments.methods import expand_method
from utils import checkpoints
from utils.compilation import keep_compilations
from utils.evaluation import evaluate
from utils.logs import RunLogs, versions
from utils.replay import ReplayBuffer
from utils.seeds import place, seed_mesh, stack, unstack
from utils.streaming import ShardReader
from utils.training import act, add_transitions, averages, train, zero_totals

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
flags.DEFINE_integer('num_seeds', 1, 'Seeds seed, seed + 1, … trained together.')
flags.DEFINE_string('save_dir', 'exp', 'Runs are written to <save_dir>/<run_group>/….')
flags.DEFINE_string('run_group', 'debug', 'Runs that belong together.')
flags.DEFINE_string('restore_path', None, 'Checkpoint to start from.')
flags.DEFINE_string('compilation_cache_dir', '~/.cache/dfp/jax', 'Compiled programs are kept here '
                    'for the next run; empty: nowhere.')  # fmt: skip
flags.DEFINE_enum('wandb_mode', 'disabled', ['disabled', 'offline', 'online'], 'W&B logging.')

flags.DEFINE_integer('offline_steps', 1_000_000, 'Updates on the data set alone.')
flags.DEFINE_integer('online_steps', 1_000_000, 'Environment steps after that.')
flags.DEFINE_integer('horizon_length', 5, 'Actions in a chunk (h).')
flags.DEFINE_float('discount', 0.99, 'Per environment step.')
flags.DEFINE_integer('utd_ratio', 1, 'Updates per environment step, online.')
flags.DEFINE_integer('start_training', 5_000, 'Online step at which updates resume.')
flags.DEFINE_bool('overlap', True, 'Update while the environments play, so that the policy that '
                  'acts is one chunk old; if not, they wait for each other.')  # fmt: skip
flags.DEFINE_integer('buffer_size', 2_000_000, 'Transitions, offline ones included.')

flags.DEFINE_integer('eval_interval', 100_000, 'Steps between evaluations.')
flags.DEFINE_integer('eval_episodes', 50, 'Episodes per evaluation; the paper: 100.')
flags.DEFINE_integer('eval_envs', 10, 'Environments evaluated in parallel, of all seeds together.')
flags.DEFINE_integer('log_interval', 5_000, 'Steps between rows of offline.csv and online.csv.')

flags.DEFINE_bool('sparse', False, 'Turn any non-zero reward into -1.')
flags.DEFINE_enum('success_timing', 'pre', ['pre', 'post'], 'OGBench: judge the state before or '
                  'after the action.')  # fmt: skip
flags.DEFINE_enum('dataset_source', 'auto', ['auto', 'download', 'collect'], 'auto: what is on '
                  'disk, else download.')  # fmt: skip
flags.DEFINE_string('ogbench_dataset_dir', None, 'Data sets; default: ~/.ogbench/data.')
flags.DEFINE_integer('dataset_replace_interval', 1_000, 'Updates before the next file of a data '
                     'set in many files.')  # fmt: skip
flags.DEFINE_enum('on_bad_shard', 'fail', ['fail', 'skip'], 'When a file of such a set cannot be '
                  'read.')  # fmt: skip
flags.DEFINE_integer('collect_episodes', None, 'With --dataset_source=collect; default: as many '
                     'as the public data.')  # fmt: skip


def check_flags() -> None:
    """Raises ValueError for values that cannot work."""
    at_least = {
        'offline_steps': 0, 'online_steps': 0, 'horizon_length': 1, 'utd_ratio': 1,
        'start_training': 0, 'buffer_size': 1, 'eval_interval': 1, 'eval_episodes': 1,
        'eval_envs': 1, 'log_interval': 1, 'dataset_replace_interval': 1,
        'seed': 0, 'num_seeds': 1,
    }  # fmt: skip
    for name, least in at_least.items():
        value = getattr(FLAGS, name)
        if value < least:
            raise ValueError(f'--{name}={value}: must be at least {least}')
    if not FLAGS.offline_steps + FLAGS.online_steps:
        raise ValueError('--offline_steps=0 --online_steps=0: nothing to do; evaluate.py evaluates')
    if FLAGS.restore_path and FLAGS.num_seeds > 1:
        raise ValueError(
            f'--num_seeds={FLAGS.num_seeds} --restore_path={FLAGS.restore_path}: a checkpoint is '
            'of one agent, so all seeds would be the same; use --num_seeds=1'
        )
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
    start_workers()
    keep_compilations(FLAGS.compilation_cache_dir)
    env_options = {'sparse': FLAGS.sparse, 'success_timing': FLAGS.success_timing}
    spaces = make_env(FLAGS.env_name, **env_options)
    description = {
        'agent': FLAGS.agent.to_dict(),
        'env_name': FLAGS.env_name,
        'env_options': env_options,
        'observation_dim': spaces.observation_space.shape[0],
        'action_dim': spaces.action_space.shape[-1],
        'horizon_length': FLAGS.horizon_length,
        'discount': FLAGS.discount,
    }
    seeds = list(range(FLAGS.seed, FLAGS.seed + FLAGS.num_seeds))
    agents = [make_agent(description, seed) for seed in seeds]
    if FLAGS.restore_path:
        agents = [checkpoints.restore(FLAGS.restore_path, agents[0])]
    logs = RunLogs(
        FLAGS.save_dir,
        FLAGS.run_group,
        FLAGS.env_name,
        FLAGS.method or FLAGS.agent.agent_name,
        seeds,
    )
    eval_env = make_vector_env(
        FLAGS.env_name,
        max(1, min(FLAGS.eval_envs // len(seeds), FLAGS.eval_episodes)) * len(seeds),
        FLAGS.horizon_length,
        'evaluate',
        **env_options,
    )
    eval_env.reset_async()  # builds the scenes while the data is read
    dataset = make_dataset(
        FLAGS.env_name,
        FLAGS.ogbench_dataset_dir,
        FLAGS.dataset_source,
        sparse=FLAGS.sparse,
        num_episodes=FLAGS.collect_episodes,
    )
    logs.start(
        {'flags': {name: FLAGS[name].value for name in flags_of_this_program()}}
        | {'agent': description['agent'], 'data': dataset.provenance, 'versions': versions()},
        FLAGS.wandb_mode,
    )
    jax.set_mesh(seed_mesh(len(seeds)))
    shards = ShardReader(dataset, FLAGS.on_bad_shard)
    buffers = ReplayBuffer.create(shards.take(), FLAGS.buffer_size).replicate(len(seeds))
    buffers = place(buffers, buffers.seed_axes())
    agents = place(stack(agents), 0)
    print(
        f'{dataset.name} ({dataset.provenance["source"]}): '
        f'{int(buffers.offline.num_starts):,} transitions'
    )
    for directory in logs.directories:
        print(f'Writing to {directory}')
    eval_env.reset_wait()

    scores = []

    def evaluate_at(phase: str, step: int, agents, bar: tqdm) -> None:
        if step or not scores:  # else the agents are still those that ended the offline phase
            scores[:] = evaluate(agents, eval_env, FLAGS.eval_episodes, seeds)
        logs.evaluation(phase, step, scores)
        bar.set_postfix(success=f'{100 * np.mean([x["success"] for x in scores]):.0f}%')

    phases = [('offline', FLAGS.offline_steps), ('online', FLAGS.online_steps)]
    for phase, num_steps in phases:
        if not num_steps:
            continue
        with tqdm(total=num_steps, desc=phase, unit='step', smoothing=0.05) as bar:
            if phase == 'offline':
                agents, buffers = offline(agents, buffers, shards, logs, evaluate_at, bar)
            else:
                env = make_vector_env(
                    FLAGS.env_name, len(seeds), FLAGS.horizon_length, 'play', **env_options
                )
                agents = online(agents, buffers, env, seeds, logs, evaluate_at, bar)
                env.close()
        for i, directory in enumerate(logs.directories):
            checkpoints.save(directory / 'checkpoints' / phase, unstack(agents, i), description)
    eval_env.close()
    shards.close()
    logs.finish()
    for score, directory in zip(scores, logs.directories, strict=True):
        print(f'Final success {100 * score["success"]:.0f}%: {directory / "learning_curve.png"}')


def offline(agents, buffers, shards, logs, evaluate_at, bar):
    """Updates on the data set; see `main` for the arguments."""
    intervals = [FLAGS.eval_interval, FLAGS.log_interval]
    if len(shards) > 1:
        intervals.append(FLAGS.dataset_replace_interval)
        shards.read_ahead()
    totals = zero_totals(agents, buffers)
    evaluate_at('offline', 0, agents, bar)
    step, block = 0, 1
    while step < FLAGS.offline_steps:
        num_updates = min(block, next_stop(step, intervals, FLAGS.offline_steps) - step)
        start = time.perf_counter()
        agents, totals = train(agents, buffers, num_updates, totals)
        jax.block_until_ready(totals)
        # Long enough for dispatching to cost nothing, short enough for the bar to move.
        seconds = time.perf_counter() - start
        block = max(1, block * 2 if seconds < 0.5 else block // 2 if seconds > 2 else block)
        step += num_updates
        bar.update(num_updates)
        if is_stop(step, FLAGS.log_interval, FLAGS.offline_steps):
            logs.training('offline', step, averages(totals))
            totals = zero_totals(agents, buffers)
        if is_stop(step, FLAGS.eval_interval, FLAGS.offline_steps):
            evaluate_at('offline', step, agents, bar)
        if len(shards) > 1 and step % FLAGS.dataset_replace_interval == 0:
            buffers = place(buffers.load(shards.take()), buffers.seed_axes())
            if step < FLAGS.offline_steps:
                shards.read_ahead()  # the shard before is forgotten by now
    return agents, buffers


def online(agents, buffers, env, seeds, logs, evaluate_at, bar):
    """Acts chunk by chunk, with as many updates as steps; see `main` for the arguments.

    With --overlap the updates that step t owes are made while the environments play the chunk after
    it. So a chunk is chosen with all updates of the chunk before the last made, and they see all
    data up to then. Seeds take chunks of their own lengths; at logs and evaluations those ahead
    wait for the others.
    """
    agents = agents.begin_online()
    buffers = place(buffers.begin_online(FLAGS.online_steps), buffers.seed_axes())
    rngs = jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])
    totals = zero_totals(agents, buffers)
    evaluate_at('online', 0, agents, bar)
    observations, _ = env.reset(seed=seeds)
    steps = np.zeros(len(seeds), int)  # environment steps taken
    trained = steps.copy()  # those whose updates are made
    episodes = [[] for _ in seeds]
    experienced = None  # by the last chunks, not yet in the buffers

    def learn(until: np.ndarray):
        """Stores what was experienced, and makes the updates owed for the steps up to `until`.

        Waits for neither.
        """
        nonlocal agents, buffers, totals, experienced
        if experienced is not None:
            buffers, experienced = add_transitions(buffers, experienced), None
        owed = np.maximum(until - np.maximum(trained, FLAGS.start_training - 1), 0)
        trained[:] = np.maximum(trained, until)
        if owed.any():
            agents, totals = train(agents, buffers, FLAGS.utd_ratio * owed, totals)

    for stop in stops([FLAGS.eval_interval, FLAGS.log_interval], FLAGS.online_steps):
        while (playing := steps < stop).any():
            due = np.where(playing, steps, trained)
            if not FLAGS.overlap:
                learn(due)
            chunks = act(agents.to_act(), observations, rngs, steps)
            lengths = np.minimum(FLAGS.horizon_length, FLAGS.online_steps - steps) * playing
            env.step_async((np.asarray(chunks), lengths))
            if FLAGS.overlap:
                learn(due)
            observations, _, _, _, info = env.step_wait()
            experienced = {k: v for k, v in info['transitions'].items() if k[0] != '_'}
            steps += experienced['length']
            bar.update(int(steps.min()) - bar.n)
            for i in np.flatnonzero(experienced['done']):
                episodes[i].append(float(info['success'][i]))
        learn(np.full(len(seeds), stop))
        if is_stop(stop, FLAGS.log_interval, FLAGS.online_steps):
            played = [
                {'episodes': len(x), 'episode_success': np.mean(x) if x else float('nan')}
                for x in episodes
            ]
            logs.training('online', stop, map(dict.__or__, played, averages(totals)))
            totals, episodes = zero_totals(agents, buffers), [[] for _ in seeds]
        if is_stop(stop, FLAGS.eval_interval, FLAGS.online_steps):
            evaluate_at('online', stop, agents, bar)
    return agents


def next_stop(step: int, intervals: list[int], end: int) -> int:
    """Returns the first multiple of an interval after `step`, or the end."""
    return min([end] + [(step // interval + 1) * interval for interval in intervals])


def stops(intervals: list[int], end: int) -> Iterator[int]:
    """Yields the multiples of the intervals up to the end, and the end."""
    step = 0
    while step < end:
        step = next_stop(step, intervals, end)
        yield step


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
