"""A plan as a Slurm job array."""

import shlex
from collections.abc import Sequence

from experiments.plans import PlannedRun


def job_array(runs: Sequence[PlannedRun]) -> str:
    """Returns a script for sbatch: one job per run.

    Slurm signals a job five minutes before its time limit; the run then saves its state and exits,
    and the job requeues itself. Users add what their cluster needs: partition, account, time, GPU.
    """
    commands = '\n'.join(f'  {shlex.quote(shlex.join(run.command))}' for run in runs)
    return f"""\
#!/bin/bash
#SBATCH --array=0-{len(runs) - 1}
#SBATCH --job-name=dfp
#SBATCH --output=slurm-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --time=24:00:00
#SBATCH --cpus-per-task={max(run.config.num_seeds for run in runs) + 1}
# For a GPU: #SBATCH --gres=gpu:1

commands=(
{commands}
)

# On the signal the run saves its state and exits with 75; then the job is requeued.
finish() {{
  [ $1 -eq 75 ] && scontrol requeue "$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID"
  exit $1
}}
eval "exec ${{commands[$SLURM_ARRAY_TASK_ID]}}" &
run=$!
trap 'kill -USR1 $run; wait $run; finish $?' USR1
wait $run
finish $?
"""
