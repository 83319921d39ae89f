"""Training a finished run further equals giving it all its steps from the start."""

import json

import pytest
import toy_suite
from small_runs import At, assert_equal_outcomes, make_config, outcome, read_table, start

from experiments.progress import progress_of
from training.logs import read_status
from utils.errors import UserError


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
    """A run of 20 updates and 25 environment steps: how to ask for it with changes, its result."""
    tmp_path = tmp_path_factory.mktemp('ended')

    def ask(**changes):
        return make_config(tmp_path, **({'online_steps': 25} | changes))

    return ask, start(ask())


def test_a_run_in_pieces_is_the_whole_run_also_where_its_replay_wraps(tmp_path):
    """Room for some 30 rows online, which 10 steps do not fill and 60 overwrite."""
    toy_suite.write_dataset(tmp_path / 'data', 10)
    settings = {'buffer_size': 3, 'save_minutes': 0}
    lines = []
    for offline, online in ((12, 0), (20, 0), (20, 10), (20, 60)):
        changes = {'offline_steps': offline, 'online_steps': online}
        pieces = start(make_config(tmp_path, **settings, **changes), lambda *row: lines.append(row))
        assert not pieces.was_complete
        written = json.loads((pieces.directory / 'flags.json').read_text())['flags']
        assert changes.items() <= written.items()
    whole = start(make_config(tmp_path, **settings, save_dir=str(tmp_path / 'whole')))
    assert pieces.scores == whole.scores
    assert_equal_outcomes(pieces.directory, whole.directory)
    arrays, _ = outcome(whole.directory)
    assert arrays['replays/rows/num_rows'].min() > arrays['replays/rows/starts'].shape[1] > 27
    steps = [(phase, step) for table, phase, step, _ in lines if table == phase]
    assert steps == [
        *(('offline', step) for step in (10, 12, 20, 20)),
        *(('online', step) for step in (10, 10, 20, 30, 40, 50, 60)),
    ]


@pytest.mark.parametrize('overlap', [True, False])
def test_where_a_longer_run_would_not_have_paused_a_line_says_what_that_costs(
    tmp_path, caplog, overlap
):
    config = make_config(tmp_path, overlap=overlap, online_steps=33)
    start(config)
    longer = start(make_config(tmp_path, overlap=overlap))
    assert ('ended at online step 33, which is not a multiple of --log' in caplog.text) == overlap
    assert [row['step'] for row in read_table(longer.directory / 'eval.csv')] == [
        '0', '20', '0', '25', '50', '60',
    ]  # fmt: skip
    if not overlap:
        whole = start(make_config(tmp_path, overlap=False, save_dir=str(tmp_path / 'whole')))
        assert_equal_outcomes(longer.directory, whole.directory)


def test_a_run_that_has_more_steps_than_are_asked_for_is_complete_and_fewer_are_owed(ended):
    ask, result = ended
    again = start(ask(online_steps=20))
    assert (again.directory, again.was_complete) == (result.directory, 'online step 25')
    assert progress_of(ask()).status == progress_of(ask(online_steps=20)).status == 'done'
    longer = progress_of(ask(online_steps=60))
    assert (longer.status, longer.part) == ('interrupted', 45 / 80)
    assert progress_of(ask(offline_steps=21)).status == 'planned'


def test_a_run_is_not_cut_to_fewer_steps_than_its_checkpoint_has(ended, tmp_path):
    ask, _ = ended
    fail = At({('eval', 'online', 25): lambda: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        start(ask(save_dir=str(tmp_path), online_steps=60, save_interval=1), fail)
    with pytest.raises(UserError, match=r'is at online step 2\d already, beyond --online_steps=21'):
        start(ask(save_dir=str(tmp_path), online_steps=21))


def test_a_run_without_checkpoints_keeps_its_results(ended, tmp_path):
    ask, _ = ended
    config = ask(save_dir=str(tmp_path), online_steps=0, eval_episodes=0)
    (checkpoint,) = start(config).directory.glob('checkpoints/*')
    checkpoint.unlink()
    with pytest.raises(UserError, match='its checkpoints are gone; start a new run with --fresh'):
        start(ask(save_dir=str(tmp_path), online_steps=0, eval_episodes=0, offline_steps=30))
    assert read_status(config.directory)['status'] == 'done'
    assert read_table(config.directory / 'offline.csv')
