"""Reproduces the paper's tables and curves: plans, runs and reports them.

python reproduce.py plan   --table=1
python reproduce.py run    --table=1
python reproduce.py status --table=1
python reproduce.py report --table=1

Tables are 1, 2, 3, 4, 6 and 7; --scale=small is the same pipeline at a size for two CPU cores.
Instead of a table: --methods=DFP,MVP --tasks=cube-double-play-singletask-task2-v0 --seeds=3. All
other flags are main.py's and apply to every run. `run` continues stopped runs and skips complete
ones; `gather` adds results to the file --results, which `report` reads.
"""

import experiments.interruptible  # noqa: F401

# isort: split
import pathlib
import shlex
import sys
from collections.abc import Callable
from functools import partial

from absl import app, flags

from experiments import command_line, progress, schedulers, slurm
from experiments.plans import Plan, PlannedRun, make_plan
from reports import runs
from utils.errors import UserError

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).absolute().parent
log = partial(print, flush=True)

flags.DEFINE_string('table', '', "The paper's table.")
flags.DEFINE_enum('scale', 'paper', ['paper', 'small'], 'Size of the runs.')
flags.DEFINE_list('methods', [], 'Only these rows of the table, or of experiments/methods.toml.')
flags.DEFINE_list('tasks', [], 'Only these tasks.')
flags.DEFINE_integer('seeds', None, "Seeds of each run; default: the table's.", lower_bound=1)
flags.DEFINE_integer('jobs', None, 'Runs at a time; default: one per GPU, or per core.', 1)
flags.DEFINE_float('minutes', None, 'Save and stop within this time; the next call continues.')
flags.DEFINE_integer('retries', 2, 'Retries of a run that fails.', lower_bound=0)
flags.DEFINE_string('ray_address', None, 'Run on this Ray cluster, such as auto.')
flags.DEFINE_float('ray_cpus', 1, 'Cores per run on Ray.', lower_bound=0)
flags.DEFINE_float('ray_gpus', 0, 'GPUs, or a fraction of one, per run on Ray.', lower_bound=0)
flags.DEFINE_enum('format', 'text', ['text', 'slurm'], 'Of plan: text, or a Slurm job array.')
flags.DEFINE_string('results', None, "File of results; default: the project's, for the scale.")
flags.DEFINE_bool('skip_gathered', False, 'Skip runs that are complete in --results.')
flags.DEFINE_string('output', None, 'Folder of the report; default: <save_dir>/report.')
flags.DEFINE_bool('published', False, 'Add the published curves.')
flags.register_multi_flags_validator(
    ['ray_address', 'jobs'],
    lambda given: not (given['ray_address'] and given['jobs']),
    '--jobs is for this machine only; on Ray use --ray_cpus and --ray_gpus',
)


def main(command: str, argv: list[str]) -> None:
    plan = make_plan(FLAGS.table, FLAGS.scale, FLAGS.methods, FLAGS.tasks, FLAGS.seeds, argv[1:])
    for planned in plan.runs:
        planned.config.check()
    if FLAGS.skip_gathered and command in ('plan', 'run', 'status'):
        others = progress.without_gathered(plan, runs.read_results(results_path()))
        count = len(plan.runs) - len(others.runs)
        print(f'{results_path()} has {count} of the runs; skipped', file=sys.stderr)
        if not others.cells:
            return
        plan = others
    if command == 'report':
        report(plan, any_version=not argv[1:])
    else:
        COMMANDS[command](plan)


def show_plan(plan: Plan) -> None:
    if FLAGS.format == 'slurm':
        print(slurm.job_array(plan.runs))
    else:
        show(plan, lambda planned, _: shlex.join(planned.command))


def show_status(plan: Plan) -> None:
    show(plan, lambda planned, error: f'{planned.label}: {error}' if error else planned.label)


def show(plan: Plan, text: Callable[[PlannedRun, str], str]) -> None:
    """Prints a line per run: its progress, and a text about the run and its error."""
    for planned in plan.runs:
        found = progress.progress_of(planned.config)
        print(f'{found.status:<11} {100 * found.part:3.0f}%  {text(planned, found.error)}')
    print(f'\n{len(plan.runs)} runs: {progress.counts(plan.runs)}')


def run(plan: Plan) -> None:
    if FLAGS.ray_address:
        scheduler = schedulers.RayCluster(FLAGS.ray_address, FLAGS.ray_cpus, FLAGS.ray_gpus)
    else:
        scheduler = schedulers.ThisMachine(schedulers.slots(FLAGS.jobs))
    failed = schedulers.run_all(plan.runs, scheduler, log, FLAGS.minutes, FLAGS.retries)
    log(f'{progress.counts(plan.runs)} of {len(plan.runs)} runs')
    for planned in failed:
        log(f'Failed: {shlex.join(planned.command)}')
    if failed:
        sys.exit(1)
    if any(progress.progress_of(planned.config).status != 'done' for planned in plan.runs):
        log('The same command continues.')
        sys.exit(schedulers.INTERRUPTED)


def results_path() -> pathlib.Path:
    return pathlib.Path(FLAGS.results or ROOT / f'results/{FLAGS.scale}.csv')


def gather(plan: Plan) -> None:
    found = progress.results_of(plan.runs)
    total = runs.gather(results_path(), found)
    seeds = len(found[runs.SEED].drop_duplicates())
    print(f'{results_path()}: {seeds} seeds of this plan, {total} evaluations in all')


def report(plan: Plan, any_version: bool) -> None:
    from experiments.report import write  # matplotlib is slow to import

    table = runs.merged(results_path(), progress.results_of(plan.runs))
    default = pathlib.Path(plan.runs[0].config.save_dir).expanduser() / 'report'
    directory = pathlib.Path(FLAGS.output or default)
    for path in write(plan, table, directory, FLAGS.published, any_version):
        print(path)


COMMANDS = {
    'plan': show_plan, 'run': run, 'status': show_status, 'gather': gather, 'report': report,
}  # fmt: skip

if __name__ == '__main__':
    with command_line.one_line_errors():
        if command_line.HELP & set(sys.argv):
            print(f'{__doc__}\n{FLAGS.main_module_help()}')
            sys.exit()
        name = sys.argv[1] if len(sys.argv) > 1 else ''
        if name not in COMMANDS:
            raise UserError(f'{name!r}: not a command; there are {", ".join(COMMANDS)}')
        FLAGS.set_gnu_getopt()
        parse = partial(FLAGS, known_only=True)  # the rest is main.py's
        app.run(partial(main, name), [sys.argv[0], *sys.argv[2:]], flags_parser=parse)
