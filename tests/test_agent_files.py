"""Any file is an agent, and a run knows the code that it learns with."""

import pathlib
import re
import shutil

import pytest
from small_runs import At, make_config, read_table, start, stop

import agents
from experiments.progress import progress_of
from experiments.run_flags import parse
from training import Interrupted, RunConfig, load_policy
from training.export import export_policy
from utils.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
VARIANT = '''
"""DFP, with something of its own in the loss."""

from agents import dfp


def get_config():
    return dfp.get_config()


class Variant(dfp.DFPAgent, kw_only=True):
    def actor_loss(self, *arguments):
        loss, info = super().actor_loss(*arguments)
        return loss, info | {'actor/mine': 7 + 0 * loss}
'''


def write(path, source=VARIANT):
    path.write_text(source)
    return path


# ---- any file -----------------------------------------------------------------------------------


def test_the_class_in_a_file_is_trained_wherever_it_lies_and_called_by_that_file(tmp_path):
    file = write(tmp_path / 'variant.py')
    config, usual = make_config(tmp_path, agent_file=str(file)), make_config(tmp_path)
    assert config.agent == usual.agent  # its agent_name is dfp, too
    assert config.directory != usual.directory
    assert config.directory.name.startswith('variant-sd000-')
    result = start(config)
    assert {float(row['actor/mine']) for row in read_table(result.directory / 'offline.csv')} == {7}
    policy = load_policy(result.directory)
    assert type(policy).__name__ == 'Variant'
    assert export_policy(result.directory, tmp_path / 'policy')['method'] == 'variant'
    file.unlink()
    with pytest.raises(UserError, match=r'--agent=.*variant.py: no such file; put it back, or use'):
        load_policy(result.directory)


def test_its_code_is_part_of_the_identity_and_neither_words_nor_its_place_are(tmp_path):
    def identity(file):
        return RunConfig(agent=str(file)).identity

    file = write(tmp_path / 'variant.py')
    first = identity(file)
    (tmp_path / 'elsewhere').mkdir()
    assert identity(write(tmp_path / 'elsewhere' / 'moved.py')) == first
    assert identity(write(file, VARIANT.replace('something', 'a bit'))) == first
    same = VARIANT.replace("'actor/mine'", '"actor/mine"').replace('(self, *', '(\n        self, *')
    assert identity(write(file, f'{same}# end')) == first
    assert identity(write(file, VARIANT.replace('7', '8'))) != first
    assert agents.find_class(str(file)) is agents.find_class(str(file))


def test_a_name_or_a_path_from_anywhere_is_the_same_agent(tmp_path, monkeypatch):
    config = RunConfig(agent='dfp')
    for directory in (ROOT, tmp_path):
        monkeypatch.chdir(directory)
        assert (
            RunConfig(agent='agents/dfp.py') == RunConfig(agent=f'{ROOT}/agents/dfp.py') == config
        )
        assert parse(['main.py', '--agent=agents/dfp.py']) == config
    write(tmp_path / 'variant.py')
    assert RunConfig(agent='variant.py') == RunConfig(agent=str(tmp_path / 'variant.py'))
    (tmp_path / 'agents').mkdir()
    shutil.copy(tmp_path / 'variant.py', tmp_path / 'agents' / 'dfp.py')
    assert RunConfig(agent='agents/dfp.py').agent_file == str(tmp_path / 'agents' / 'dfp.py')
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('', r'has no get_config\(\)'),
        ('It is not code.', r'not a Python program \(invalid syntax'),
        ('from agents.dfp import DFPAgent, get_config', 'defines no subclass of agents.base.Agent'),
        (
            f'{VARIANT}\n\nclass Other(Variant, kw_only=True):\n    pass\n',
            'defines Other, Variant of agents.base.Agent; name the one .* agent_class = …',
        ),
    ],
)
def test_a_file_without_one_agent_is_refused(source, message, tmp_path):
    file = write(tmp_path / 'mine.py', source)
    with pytest.raises(UserError, match=f'^--agent={re.escape(str(file))}: {message}'):
        RunConfig(agent=str(file), save_dir=str(tmp_path)).check()


# ---- the code that a run learns with ------------------------------------------------------------


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the project's code, where hashes are taken from: `copied(file, old, new)` edits."""
    for folder in ('agents', 'training', 'utils'):
        shutil.copytree(ROOT / folder, tmp_path / 'project' / folder)
    monkeypatch.setattr(agents, 'FOLDER', tmp_path / 'project' / 'agents')

    def edit(file, old, new):
        path = tmp_path / 'project' / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


def test_an_interrupted_run_does_not_go_on_with_another_loss_unless_it_is_told_to(tmp_path, copied):
    config = make_config(tmp_path)
    with pytest.raises(Interrupted):
        start(config, At({('offline', 'offline', 10): stop}))
    copied('agents/dfp.py', '"""Drifting Field Policy', '"""Drifting')
    copied('agents/fql.py', 'actor_loss', 'loss_of_actor')
    assert progress_of(config).status == 'interrupted'
    copied('agents/dfp.py', 'config.topk_weight * loss', '2 * config.topk_weight * loss')
    copied('utils/replay.py', 'def ', 'def _')
    message = (
        f'^{re.escape(str(config.directory))}: agents/dfp.py, utils/replay.py changed since this '
        'run; --fresh starts a new one beside it, --accept_code continues it with the code as it is'
    )
    with pytest.raises(UserError, match=message):
        start(config)
    accepted = RunConfig.from_json(config.to_json() | {'accept_code': True})
    assert start(accepted).directory == config.directory
    assert start(config).was_complete  # the code that it ended with is the code that is there


def test_a_complete_run_is_not_taken_for_one_of_another_code(tmp_path, copied):
    config = make_config(tmp_path, online_steps=0)
    done = start(config)
    copied('training/updates.py', '\n\n\n', '\n\n\n# A comment.\n')
    assert start(config).was_complete
    copied('training/updates.py', '+', '-')
    with pytest.raises(
        UserError, match=r'training/updates.py changed .*--accept_code takes its re'
    ):
        start(config)
    accepted = RunConfig.from_json(config.to_json() | {'accept_code': True})
    assert start(accepted).scores == done.scores
    assert start(config, fresh=True).directory == config.directory.with_name(
        f'{config.directory.name}-2'
    )
