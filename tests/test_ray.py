"""Runs of a plan on a Ray cluster of three nodes, one of which is lost in the middle."""

import re
import threading
import time

import pytest
from small_runs import assert_equal_outcomes
from test_schedulers import from_the_root, plan_of  # noqa: F401

from experiments.progress import counts, progress_of
from experiments.schedulers import RayCluster, Slot, ThisMachine, run_all

ray = pytest.importorskip('ray', reason='experiments/requirements-ray.txt is not installed')
pytestmark = pytest.mark.slow  # starts a cluster


def test_every_run_is_complete_once_though_a_node_is_lost(tmp_path):
    from ray.cluster_utils import Cluster

    flags = ('--online_steps=2000', '--eval_interval=1000', '--save_interval=100')
    plan, lines = plan_of(tmp_path, *flags), []
    cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

    def lose_a_node():
        while not all(progress_of(run.config).part > 0.1 for run in plan.runs):
            time.sleep(0.05)
        cluster.remove_node(nodes[0], allow_graceful=False)

    thread = threading.Thread(target=lose_a_node)
    thread.start()
    try:
        assert run_all(plan.runs, RayCluster(cluster.address), lines.append) == []
    finally:
        thread.join()
        ray.shutdown()
        cluster.shutdown()
    assert counts(plan.runs) == '2 done'
    folders = [path for path in plan.runs[0].config.directory.parent.iterdir() if path.is_dir()]
    assert len(folders) == 2  # none was begun twice
    alone = plan_of(tmp_path / 'alone', *flags)
    run_all(alone.runs, ThisMachine([Slot(), Slot()]), print)
    for here, there in zip(alone.runs, plan.runs, strict=True):
        assert_equal_outcomes(here.config.directory, there.config.directory)
    assert not any(re.search('failed', line) for line in lines)
