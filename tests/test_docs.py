"""What the documents promise: their code runs, their links and files exist."""

import dataclasses
import importlib.util
import pathlib
import re
import sys

import jax
import numpy as np
import pytest
from small_agents import ACTION_DIM, HORIZON, OBSERVATION_DIM, make_batch
from small_runs import AGENT, make_config, read_table

import agents
from training import train

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = [
    path
    for pattern in (
        '*.md',
        'docs/*.md',
        'results/*.md',
        'benchmarks/*.md',
        'lerobot_policy_dfp/*.md',
    )
    for path in sorted(ROOT.glob(pattern))
]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The agent of docs/extending.md, as a module that is registered."""
    text = (ROOT / 'docs' / 'extending.md').read_text()
    code = re.findall(r'```python\n(.*?)```', text, re.DOTALL)[0]
    assert len(code.splitlines()) <= 60
    path = tmp_path / 'drift_q.py'
    path.write_text(code)
    spec = importlib.util.spec_from_file_location('drift_q', path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'drift_q', module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(agents.agents, 'drift_q', module.DriftQAgent)
    return module


def make(example, **changes):
    config = example.get_config()
    config.update(actor_hidden_dims=(32,), critic_hidden_dims=(32,), batch_size=16, **changes)
    return example.DriftQAgent.create(0, OBSERVATION_DIM, ACTION_DIM, config, HORIZON, 0.0)


def test_the_agent_of_the_document_trains_in_both_phases(example, tmp_path):
    config = example.get_config()
    config.update(AGENT)
    result = train(dataclasses.replace(make_config(tmp_path), agent=config))
    for phase in ('offline', 'online'):
        rows = read_table(result.directory / f'{phase}.csv')
        assert np.isfinite(float(rows[-1]['actor/q_loss']))


def test_the_agent_of_the_document_climbs_q_unless_it_is_held_to_the_data(example):
    batch, rng, gained = make_batch(), jax.random.PRNGKey(0), {}
    for alpha in (0.0, 100.0):
        agent = make(example, alpha=alpha)
        for _ in range(100):
            agent, _ = agent.update(batch)
        found = agent.diagnose(batch, rng)
        gained[alpha] = found['policy/q_samples'] - found['policy/q_data']
    assert gained[0.0] > gained[100.0] + 0.1
    with pytest.raises(ValueError, match=r'--agent\.alpha=-1'):
        make(example, alpha=-1.0)


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
        'agents|envs|utils|training|reports|experiments|examples|benchmarks|tests|docs|results'
    )
    for target in re.findall(rf'`((?:{folders})/[\w/.-]+)`', text):
        is_users = pathlib.Path(target).stem in ('drift_q', 'mine')
        assert is_users or (ROOT / target).exists(), target
