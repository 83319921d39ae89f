"""Command lines, and the one-line errors for mistakes in them."""

import dataclasses
import pathlib
import re

import pytest
from absl import flags

import agents
import envs
from experiments import command_line, flag_names
from experiments.methods import METHODS
from experiments.run_flags import RunFlags, parse
from training import RunConfig
from utils.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
OURS = {field.name for field in dataclasses.fields(RunConfig)} | {'fresh'}
OURS |= {option.name for suite in envs.suites() for option in suite.options}
OURS |= {f'agent.{name}' for agent in agents.names() for name in agents.get_config(agent)}


QUICKSTART = '--flagfile=experiments/quickstart.flags'


def test_an_agent_of_ones_own_takes_the_place_of_a_flag_files_method(tmp_path):
    own = tmp_path / 'mine.py'
    own.write_text(
        'from agents import dfp\n\nagent_class = dfp.DFPAgent\n\n\n'
        'def get_config():\n    config = dfp.get_config()\n    config.top_k = 7\n'
        '    return config\n'
    )
    config = parse(['main.py', QUICKSTART, f'--agent={own}'])
    assert (config.method, config.agent_file) == (None, str(own))
    assert (config.agent['top_k'], config.agent['batch_size']) == (7, 64)
    assert config.offline_steps == 20000
    config = parse(['main.py', QUICKSTART, '--method=QC-FQL'])
    assert (config.method, config.agent_file, config.agent['alpha']) == ('QC-FQL', 'fql', 300)


def test_of_a_flag_given_twice_the_last_one_wins():
    config = parse(
        ['main.py', QUICKSTART, '--seed=1', '--agent.actor_hidden_dims=(16,)', '--seed=2']
    )
    assert (config.seed, config.agent['actor_hidden_dims']) == (2, (16,))


def test_a_flag_files_value_that_another_flag_makes_meaningless_is_ignored():
    """The number of episodes to collect, and the data folder of another suite."""
    config = parse(['main.py', QUICKSTART, '--dataset_source=auto'])
    assert config.episodes_to_collect is None
    config.check()
    assert parse(['main.py', QUICKSTART]).episodes_to_collect == 100
    assert parse(['main.py', QUICKSTART, '--env_name=lift-scripted-low_dim']).env_options == {}
    with pytest.raises(UserError, match='--sparse=True: not an option of suite robomimic'):
        parse(['main.py', '--env_name=lift-scripted-low_dim', '--sparse']).check()


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        ('--agent.topk=3', r'--agent.topk: not a setting of dfp; did you mean '
                           r'--agent.top_k\?'),
        ('--noagent.action_chunkin', r'not a setting of dfp; did you mean '
                                     r'--agent.action_chunking\?'),
        ('--agent.alpha=100', '--agent.alpha: not a setting of dfp, but of .*fql'),
        ('--agent.zzzz', '--agent.zzzz: not a setting of dfp; it has action_chunking'),
        ('--utd_rato=3', r"Unknown command line flag 'utd_rato'. Did you mean: utd_ratio \?"),
    ],
)  # fmt: skip
def test_a_flag_that_there_is_not_is_named_with_the_nearest_one(flag, message):
    argv = ['main.py', '--agent=agents/dfp.py', '--noagent.action_chunking', '--agent.top_k', '3']
    assert parse(argv).agent['top_k'] == 3
    with pytest.raises(UserError, match=message):
        parse([*argv, flag])


def test_help_lists_the_settings_of_the_agent_with_their_defaults():
    for name in agents.names():
        text = RunFlags(['main.py', f'--agent={name}'], flags.FlagValues()).help_text('doc')
        found = dict(re.findall(r'^  --agent\.(\w+) \(default (.*)\)$', text, re.MULTILINE))
        assert found == {setting: repr(value) for setting, value in agents.get_config(name).items()}


def test_a_flag_that_others_spell_otherwise_is_answered_with_ours():
    for name, text in flag_names.OTHER_NAMES.items():
        with pytest.raises(UserError) as error:
            parse(['main.py', '--seed=1', f'-{name}=3'])
        assert str(error.value) == f'--{name}: {text}'


def test_the_table_of_other_names_leads_to_flags_that_there_are():
    assert not OURS & set(flag_names.OTHER_NAMES)
    for text in flag_names.OTHER_NAMES.values():
        named = re.findall(r'--([\w.]+)', text)
        assert set(named) <= OURS
        assert named or 'leave it out' in text
        assert set(re.findall(r'--method=([\w-]+)', text)) <= set(METHODS)


def test_the_document_of_flags_has_the_table_of_other_names():
    assert flag_names.table() in (ROOT / 'docs' / 'flags.md').read_text()


@pytest.mark.parametrize('error', [UserError('a: wrong'), flags.ValidationError('two\n  lines')])
def test_what_a_user_can_put_right_ends_a_program_with_one_line(error):
    with pytest.raises(SystemExit) as end, command_line.one_line_errors():
        raise error
    assert end.value.code == ' '.join(str(error).split())


def test_ctrl_c_ends_a_program_with_one_line(capsys):
    with pytest.raises(SystemExit) as end, command_line.one_line_errors():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == 'Interrupted.\n'


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), command_line.one_line_errors():
        raise ZeroDivisionError
