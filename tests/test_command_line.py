"""What a user types, and the one line that answers a mistake."""

import dataclasses
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from absl import flags
from ml_collections import config_flags

import envs
from agents import agents, get_config
from experiments import command_line, flag_names
from experiments.methods import METHODS, expand_method
from training import RunConfig
from utils.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
OURS = {field.name for field in dataclasses.fields(RunConfig)} | {'fresh'}
OURS |= {option.name for suite in envs.suites() for option in suite.options}
OURS |= {f'agent.{name}' for agent in agents for name in get_config(agent)}


def test_flags_are_taken_out_in_their_order_with_their_values():
    argv = ['main.py', '--a=1', '--b', '2', '-a=x=y', '--ab=3', '--a.b=4', '--b']
    found, rest = command_line.take(argv, 'a', 'b')
    assert found == [('a', '1'), ('b', '2'), ('a', 'x=y'), ('b', '')]
    assert rest == ['main.py', '--ab=3', '--a.b=4']
    assert command_line.peek(argv, 'a') == 'x=y'
    assert command_line.peek(argv, 'c', 'default') == 'default'


def parsed(argv):
    """Returns the agent and the other flags that a command line comes to, as main.py reads it."""
    values = flags.FlagValues()
    flags.DEFINE_string('method', None, '', flag_values=values)
    for field in dataclasses.fields(RunConfig):
        if field.metadata and field.name != 'method':
            flags.DEFINE_string(field.name, None, '', flag_values=values)
    flags.DEFINE_string('ogbench_dataset_dir', None, '', flag_values=values)
    argv = expand_method(values.read_flags_from_files(argv), RunConfig.env_name)
    config_flags.DEFINE_config_file('agent', flag_values=values, sys_argv=argv)
    values(argv)
    return values


def test_an_agent_of_ones_own_takes_the_place_of_a_flag_files_method(tmp_path):
    own = tmp_path / 'mine.py'
    own.write_text(
        'from agents import dfp\n\n\ndef get_config():\n'
        '    config = dfp.get_config()\n    config.top_k = 7\n    return config\n'
    )
    values = parsed(['main.py', '--flagfile=experiments/quickstart.flags', f'--agent={own}'])
    assert values.method is None
    assert (values.agent.top_k, values.agent.batch_size) == (7, 64)
    assert values.offline_steps == '20000'
    values = parsed(['main.py', '--flagfile=experiments/quickstart.flags', '--method=QC-FQL'])
    assert (values.method, values.agent.agent_name, values.agent.alpha) == ('QC-FQL', 'fql', 300)


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        ('--agent.topk=3', r'--agent.topk: not a setting of agents/dfp.py; did you mean '
                           r'--agent.top_k\?'),
        ('--noagent.action_chunkin', r'not a setting of agents/dfp.py; did you mean '
                                     r'--agent.action_chunking\?'),
        ('--agent.alpha=100', '--agent.alpha: not a setting of agents/dfp.py, but of agents/fql'),
        ('--agent.zzzz', '--agent.zzzz: not a setting of agents/dfp.py; it has action_chunking'),
    ],
)  # fmt: skip
def test_a_setting_that_the_agent_does_not_have_is_named_with_the_nearest_one(flag, message):
    settings = command_line.agent_settings('agents/dfp.py')
    argv = ['main.py', '--agent=agents/dfp.py', '--noagent.action_chunking', '--agent.top_k', '3']
    command_line.refuse_unknown_settings(argv, 'agents/dfp.py', settings)
    with pytest.raises(UserError, match=message):
        command_line.refuse_unknown_settings([*argv, flag], 'agents/dfp.py', settings)


def test_an_unknown_agent_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r'--agent=agents/acfql.py: no such file; there are agents/'
                                        r'bfn.py, agents/dfp.py, agents/fql.py'):  # fmt: skip
        command_line.agent_settings('agents/acfql.py')
    (tmp_path / 'empty.py').write_text('')
    with pytest.raises(UserError, match=r'empty.py: has no get_config\(\)'):
        command_line.agent_settings(str(tmp_path / 'empty.py'))
    (tmp_path / 'notes.md').write_text('It is not code.')
    with pytest.raises(UserError, match=r'notes.md: not a Python program \(invalid syntax'):
        command_line.agent_settings(str(tmp_path / 'notes.md'))


def test_help_lists_the_settings_of_the_agent_with_their_defaults():
    for name in agents:
        path = f'agents/{name}.py'
        text = command_line.help_text('doc', 'flags', path, command_line.agent_settings(path))
        found = dict(re.findall(r'^  --agent\.(\w+) \(default (.*)\)$', text, re.MULTILINE))
        assert found | {'agent_name': f"'{name}'"} == {
            setting: repr(value) for setting, value in get_config(name).items()
        }


def test_a_flag_that_others_spell_otherwise_is_answered_with_ours():
    for name, text in flag_names.OTHER_NAMES.items():
        for flag in (f'--{name}', f'-{name}=3'):
            with pytest.raises(UserError) as error:
                command_line.refuse_other_names(['main.py', '--seed=1', flag])
            assert str(error.value) == f'--{name}: {text}'
    command_line.refuse_other_names(['main.py', '--tags=1'], ours=['tags'])
    command_line.refuse_other_names(['main.py', *(f'--{name}=1' for name in OURS)])


def test_the_table_of_other_names_leads_to_flags_that_there_are():
    assert not OURS & set(flag_names.OTHER_NAMES)
    for text in flag_names.OTHER_NAMES.values():
        named = re.findall(r'--([\w.]+)', text)
        assert set(named) <= OURS
        assert named or 'leave it out' in text
        assert set(re.findall(r'--method=([\w-]+)', text)) <= set(METHODS)


def test_the_document_of_flags_has_the_table_of_other_names():
    assert flag_names.table() in (ROOT / 'docs' / 'flags.md').read_text()


@pytest.mark.parametrize(
    'error',
    [
        UserError('a: wrong; do b'),
        OSError(28, 'No space left on device', 'x'),
        flags.ValidationError('two\n  lines'),
    ],
)
def test_what_a_user_can_put_right_ends_a_program_with_one_line(error):
    with pytest.raises(SystemExit) as end, command_line.one_line_errors():
        raise error
    assert end.value.code == ' '.join(str(error).split())
    assert len(str(end.value.code).splitlines()) == 1


def test_ctrl_c_ends_a_program_with_one_line(capsys):
    with pytest.raises(SystemExit) as end, command_line.one_line_errors():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == 'Interrupted.\n'


@pytest.mark.parametrize(
    ('before', 'within'),
    [
        (signal.SIG_DFL, signal.default_int_handler),  # as experiments.interruptible leaves it
        (signal.default_int_handler, signal.default_int_handler),
        (signal.SIG_IGN, signal.SIG_IGN),  # nohup
    ],
)
def test_what_ctrl_c_does_is_put_back_at_the_end(before, within):
    ours = signal.signal(signal.SIGINT, before)
    try:
        with command_line.one_line_errors():
            assert signal.getsignal(signal.SIGINT) is within
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, ours)


@pytest.mark.parametrize('seconds', [0.2, 0.6, 1.5])
@pytest.mark.parametrize('program', [['main.py', '--env_name='], ['-m', 'envs.collect']])
def test_ctrl_c_while_a_program_imports_ends_it_without_a_traceback(program, seconds):
    command = [sys.executable, *program]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        time.sleep(seconds)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate()
    assert program.returncode in (-signal.SIGINT, 130, 1)
    assert len(said.splitlines()) <= 1, said


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), command_line.one_line_errors():
        raise ZeroDivisionError


def test_an_argument_that_is_no_flag_is_named():
    command_line.refuse_arguments(['main.py'])
    with pytest.raises(UserError, match="'stray': not a flag; flags start with --"):
        command_line.refuse_arguments(['main.py', 'stray'])
