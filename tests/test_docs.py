"""The documents: their code and commands run, their links and files exist."""

import functools
import json
import pathlib
import re
import shlex
import sys

import jax
import numpy as np
import pytest
from processes import ROOT, run_python
from small_agents import HORIZON, compiled, describe, equal, make_batch
from small_runs import make_config

import agents
import envs
from envs.episodes import ActionChunks
from experiments import methods
from experiments.command_line import HELP
from experiments.run_flags import parse
from utils.replay import Rows

FOLDERS = '.', 'docs', 'results', 'benchmarks', 'lerobot_policy_dfp'
DOCUMENTS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob('*.md'))]


def python_blocks(path):
    """The Python code in a document."""
    return re.findall(r'^```python\n(.*?)^```', (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def example(tmp_path):
    """The path of the agent of docs/extending.md."""
    code = python_blocks('docs/extending.md')[0]
    assert len(code.splitlines()) <= 60
    path = tmp_path / 'near_clone.py'
    path.write_text(code)
    return str(path)


def make(example, **changes):
    sizes = {'actor_hidden_dims': (16,), 'critic_hidden_dims': (16,), 'batch_size': 16}
    description = describe(sizes | changes, HORIZON, 0.0) | {'agent_file': example}
    return agents.make_agent(description, seed=0)


def test_the_agent_of_the_document_climbs_q_unless_it_is_held_to_the_data(example):
    batch, rng, gained = make_batch(), jax.random.PRNGKey(0), {}
    for alpha in (0.0, 100.0):
        agent = make(example, alpha=alpha).begin_online()
        for _ in range(100):
            agent, _ = agent.update(batch)
        found = compiled(agent, 'diagnose', batch, rng)
        gained[alpha] = found['policy/q_samples'] - found['policy/q_data']
    assert gained[0.0] > gained[100.0] + 0.1
    assert set(agent.slow) == {'critic', 'clone'}
    assert not equal(agent.slow['clone'], agent.params['clone'])
    with pytest.raises(ValueError, match=r'--agent\.alpha=-1'):
        make(example, alpha=-1.0)


def test_the_suite_of_the_document_has_a_task_and_data_that_a_run_can_start_with(
    tmp_path, monkeypatch
):
    (code,) = (code for code in python_blocks('docs/extending.md') if 'my_module' in code)
    (tmp_path / 'my_module.py').write_text(code)
    monkeypatch.chdir(tmp_path)  # where it looks for its data
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, 'my_module', None)
    del sys.modules['my_module']  # it is new, and forgotten afterwards
    rng = np.random.default_rng(0)
    np.savez(
        'car-data.npz',
        observations=rng.normal(size=(40, 2)),
        actions=rng.uniform(-1, 1, (40, 1)),
        rewards=np.zeros(40),
        terminals=np.arange(40) % 20 == 19,
    )
    make_config(tmp_path, suite='my_module:suite', env_name='car-v0', env_options={}).check()
    task = envs.find_task('car-v0', 'my_module:suite')
    assert Rows.from_dataset(envs.make_dataset(task).load(0)).num_starts == 38
    env = ActionChunks(envs.make_env(task), 3)
    env.begin(0)
    transitions, _, success = env.play(np.ones((3, 1), np.float32))
    assert (transitions['length'], success) == (3, False)


def test_the_readmes_python_trains_and_acts(tmp_path, monkeypatch, capsys):
    """The run that it makes can start; a small one takes its place."""

    def make_small(*arguments, **settings):
        run_config(*arguments, **settings, save_dir=str(tmp_path / 'exp')).check()
        return make_config(tmp_path, seed=settings['seed'])

    run_config = methods.run_config
    monkeypatch.setattr(methods, 'run_config', make_small)
    (code,) = python_blocks('README.md')
    names = {}
    exec(code, names)
    assert names['chunk'].shape == (3, 1)
    assert np.abs(names['chunk']).max() <= 1
    printed = capsys.readouterr().out
    assert re.search(r"^eval online 60 \[\{.*'success'", printed, re.MULTILINE)


# ---- commands -----------------------------------------------------------------------------------

PROGRAMS = r'(?:main|evaluate|export|reproduce)\.py'
MODULES = r'(?:envs|reports|figures|benchmarks|examples|experiments|tests)\b[\w.]*'
WITH_COMMANDS = [path for path in DOCUMENTS if path.name not in ('CHANGELOG.md', 'RESULTS.md')]


def code_of(text):
    """Returns the lines of a document's code blocks (except Python), and its inline code."""
    blocks = re.findall(r'^```(\w*)\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    text = re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)
    shell = [code for language, code in blocks if language in ('', 'bash')]
    shell += re.findall(r'(?:^ {4}.*\n)+', text, re.MULTILINE)
    lines = [line for code in shell for line in code.replace('\\\n', ' ').splitlines()]
    return lines, [' '.join(code.split()) for code in re.findall('`([^`]+)`', text)]


def commands_of(text):
    """Yields program or module, and arguments, of the project's commands in a document."""
    lines, phrases = code_of(text)
    for line in [*lines, *phrases]:
        found = re.search(rf'(?<![\w./])({PROGRAMS}|-m {MODULES})(?=\s|$)(.*)', line)
        if found:
            arguments = re.split(r'\s(?:[#>|;]|&&|--)(?:\s|$)|;', found[2])[0]
            yield found[1].removeprefix('-m '), arguments.strip()


def names_of(arguments):
    """The names of flags in a command line."""
    return re.findall(r'(?<!\S)--?([a-z][\w.]*)', arguments)


@functools.cache
def known_flags():
    """The flags of each program and module that a document names."""
    programs = {name for path in WITH_COMMANDS for name, _ in commands_of(path.read_text())}
    programs -= {'examples.run_exported', 'experiments.flag_names'}  # these have none
    done = run_python('tests/program_flags.py', *sorted(programs))
    assert done.returncode == 0, done.stderr
    known = {name: set(flags) for name, flags in json.loads(done.stdout).items()}
    absl = {'help', 'flagfile'}
    settings = {f'agent.{name}' for agent in agents.names() for name in agents.get_config(agent)}
    known['main.py'] |= settings
    known['reproduce.py'] |= known['main.py']
    return {name: flags | absl for name, flags in known.items()}


@pytest.mark.parametrize('document', WITH_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_a_document_have_programs_and_flags_that_there_are(document):
    for program, arguments in commands_of(document.read_text()):
        place = ROOT / (program if program.endswith('.py') else program.replace('.', '/'))
        assert place.is_file() or place.is_dir() or place.with_suffix('.py').is_file(), program
        for name in names_of(arguments):
            known = known_flags().get(program, set())
            assert {name, name.removeprefix('no')} & known, f'{program} {arguments}'
        is_users = re.search(r'[<{$…]|my_module|near_clone', arguments)
        if program == 'main.py' and '--' in arguments and not is_users:
            argv = [argument for argument in shlex.split(arguments) if argument not in HELP]
            parse([program, *argv])


# ---- links --------------------------------------------------------------------------------------


def anchors(document):
    """The names of a document's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', document.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files_that_a_document_names_exist(document):
    text = document.read_text()
    for target in re.findall(r'\]\((?!https?:)([^)#]+)', text):
        assert (document.parent / target).exists(), target
    for target, anchor in re.findall(r'\]\((?!https?:)([^)#]*)#([^)]+)\)', text):
        assert anchor in anchors(document.parent / target if target else document), anchor
    folders = (
        'agents|envs|utils|training|reports|figures|experiments|examples|benchmarks|tests|docs|'
        'results'
    )
    for target in re.findall(rf'`((?:{folders})/[\w/.-]+)`', text):
        is_users = pathlib.Path(target).stem in ('near_clone', 'mine')
        assert is_users or (ROOT / target).exists(), target
