"""Kills runs at every kind of moment, and checks that they end as if nothing had happened.

    python -m tests.reliability --kills=32 --output=docs/reliability.md

Each variant of a run is made once without a stop. Then it is made again elsewhere, and killed
(SIGKILL, the main process alone) again and again, each time resumed by the same command; then it is
asked to stop by signals. In the end agents, replays and tables must be the same bit by bit. The
exit status is 1 if anything differed, or a process, shared memory or unfinished file was left.
"""

import argparse
import itertools
import os
import pathlib
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tests'))
from watched_runs import Strike, endure, make_reference, put_into  # noqa: E402

from envs.collect import collect  # noqa: E402

ENV_NAME = 'cube-single-play-singletask-task1-v0'
SMALL = (
    '--agent.actor_hidden_dims=(16,)', '--agent.critic_hidden_dims=(16,)', '--agent.batch_size=8',
    '--buffer_size=8000', '--eval_episodes=1', '--eval_envs=1', '--offline_steps=1500',
    '--online_steps=1000', '--start_training=100', '--eval_interval=250', '--log_interval=250',
    '--save_interval=120',
)  # fmt: skip


class Variant(NamedTuple):
    """A run's flags, and the data set to collect for it beforehand ('': it collects itself)."""

    name: str
    flags: tuple[str, ...]
    dataset: str = 'cube-single-play-v0'
    num_shards: int = 1


COLLECT = (
    '--dataset_source=collect',
    '--collect_episodes=3',
    '--ogbench_dataset_dir={directory}/data',
)
VARIANTS = (
    Variant('one seed', COLLECT, dataset=''),
    Variant('one seed, `--nooverlap`', ('--nooverlap',)),
    Variant('two seeds', ('--num_seeds=2', '--eval_envs=2')),
    Variant(
        'data in three files',
        (f'--env_name={ENV_NAME.replace("play", "play-100m")}', '--dataset_replace_interval=300'),
        'cube-single-play-100m-v0',
        3,
    ),
)


# In the order in which a run comes to them.
COURSE = (
    ('collection', '', 3.0),
    ('start-up', '', 4.0),
    ('offline', '', 1.0),
    ('evaluation', 'offline', 0.1),
    ('saving', 'offline', 0.05),
    ('online', '', 2.0),
    ('start-up', '', 4.0),
    ('evaluation', 'online', 0.1),
    ('saving', 'online', 0.05),
)


def plan_kills(number: int, collects: bool) -> list[Strike]:
    """Returns kills at all kinds of moments in turn."""
    course = [place for place in COURSE if collects or place[0] != 'collection']
    places = itertools.islice(itertools.cycle(course), number)
    return [Strike(moment, phase, longest_delay=delay) for moment, phase, delay in places]


def plan_signals(collects: bool) -> list[Strike]:
    """Returns each signal at each kind of moment, and Ctrl-C twice in both phases."""
    kinds = [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGUSR1,)]
    plan = []
    for moment, phase, delay in COURSE[:6]:
        if moment == 'collection' and not collects:
            continue
        twice = [(signal.SIGINT, signal.SIGINT)] if moment in ('offline', 'online') else []
        plan += [Strike(moment, phase, each, delay / 2) for each in kinds + twice]
    return plan


def make_flags(variant: Variant, directory: pathlib.Path) -> list[str]:
    """Returns the flags of a variant; collects its data first if need be."""
    if variant.dataset and not (directory / variant.dataset).exists():
        shards = {'num_shards': variant.num_shards, 'num_val_episodes': 0}
        collect(variant.dataset, 3, directory / variant.dataset, **shards)
    cache = f'--compilation_cache_dir={directory}/compiled'
    data = f'--ogbench_dataset_dir={directory / variant.dataset}'
    return [f'--env_name={ENV_NAME}', data, cache, *SMALL, *variant.flags]


def examine(variant: Variant, num_kills: int, signals: bool, directory: pathlib.Path, rng):
    """Makes a variant's runs; returns the strikes, and what went wrong."""
    flags, place = make_flags(variant, directory), directory / re.sub(r'\W+', '-', variant.name)
    reference = make_reference(flags, place / 'reference')
    if reference.problems:
        return [], reference.problems
    collects = not variant.dataset
    plans = {'stopped': plan_signals(collects)} if signals else {}
    plans['killed'] = plan_kills(num_kills, collects)
    problems = []
    for name, plan in plans.items():
        problems += endure(flags, place / name, plan, reference, rng)
        for strike in plan:
            strike.variant = variant.name
    return [strike for plan in plans.values() for strike in plan], problems


# ---- the report ---------------------------------------------------------------------------------


def table(strikes: list[Strike], of) -> str:
    """Returns a Markdown table with a row for each value of `of(strike)`, and one for all."""
    kinds = dict.fromkeys(map(of, strikes))
    rows = [(kind, [x for x in strikes if of(x) == kind]) for kind in kinds]
    lines = ['| | times | resumed | equal bit by bit | seconds to end | seconds to resume |']
    lines += ['|---|---|---|---|---|---|']
    for kind, group in [*rows, ('all', strikes)]:
        resumes = [x.seconds_to_resume for x in group if x.seconds_to_resume is not None]
        resume = f'{statistics.median(resumes):.1f}' if resumes else ''
        end = f'{max(x.seconds_to_end for x in group):.1f}'
        counts = [len(group), sum(x.resumed for x in group), sum(x.equal for x in group)]
        lines.append(f'| {kind} | {" | ".join(map(str, counts))} | {end} | {resume} |')
    return '\n'.join(lines)


def find_commit() -> str:
    """Returns the commit of the code."""
    git = ['git', 'describe', '--always', '--dirty', '--abbrev=12']
    return subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def describe(strikes: list[Strike], problems: list[str], command: str, commit: str) -> str:
    """Returns the report in Markdown."""
    kills = [x for x in strikes if x.kills]
    stops = [x for x in strikes if not x.kills]
    load = os.getloadavg()[2]
    machine = f'{os.cpu_count()} cores at a load of {load:.1f} in all, '
    machine += f'{platform.system()} {platform.machine()}'
    return TEXT.format(
        num_kills=len(kills),
        num_stops=len(stops),
        kills=table(kills, lambda x: x.moment),
        variants=table(kills, lambda x: x.variant),
        stops=table(stops, lambda x: f'{x.name}, {x.moment}') if stops else 'None.',
        problems='\n'.join(f'- {x}' for x in problems) or 'None.',
        command=command,
        commit=commit,
        date=time.strftime('%Y-%m-%d'),
        machine=f'{machine}; JAX {jax.__version__}',
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=32, help='in all, shared by the variants')
    parser.add_argument('--signals', type=int, default=1, help='1: also ask runs to stop; 0: not')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--directory', type=pathlib.Path, help='for the runs; default: temporary')
    parser.add_argument('--output', type=pathlib.Path, help='Markdown file with a place for it')
    options = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')  # here: an accelerator is for the runs
    commit = find_commit()
    print(f'Moments chosen with --seed={options.seed}')
    rng = random.Random(options.seed)
    strikes, problems = [], []
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.directory or pathlib.Path(temporary)).absolute()
        for i, variant in enumerate(VARIANTS):
            num_kills = (options.kills + i) // len(VARIANTS)
            signals = bool(options.signals) and i == 0
            if not num_kills and not signals:
                continue
            found = examine(variant, num_kills, signals, directory, rng)
            strikes, problems = strikes + found[0], problems + found[1]
    command = f'python -m tests.reliability --kills={options.kills} --seed={options.seed}'
    report = describe(strikes, problems, command, commit)
    print(report)
    if options.output:
        put_into(options.output, 'kills', report)
    sys.exit(bool(problems) or not all(x.resumed and x.equal for x in strikes))


TEXT = """\
{num_kills} kills (SIGKILL to the main process only, as from the kernel's out-of-memory killer) and
{num_stops} stops by signals, in small runs of cube-single. Moments are random, but every kind
occurs; a kill counts under what the run was doing when it died. Each kill must leave no process, no
shared memory and no unfinished file. In the end the run is compared with an undisturbed one.

    {command}

Commit {commit}, {date}, {machine}.

### Kills, by moment

{kills}

"Seconds to end" is the longest time until the process was gone, "seconds to resume" the median
time from the command until the run continues; it is missing for a start that was struck before
that. "Saving" is the writing of a checkpoint, in any phase.

### Kills, by run

{variants}

### Stops

{stops}

### What went wrong

{problems}
"""


if __name__ == '__main__':
    main()
