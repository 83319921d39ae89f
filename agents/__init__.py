"""What learns: one file per method, `base.py` for all of them and `top_k.py` for DFP and MVP."""

import sys
from collections.abc import Mapping
from typing import Any

import ml_collections

from agents.base import Agent
from agents.bfn import BFNAgent
from agents.dfp import DFPAgent
from agents.fql import FQLAgent
from agents.mvp import MVPAgent
from agents.qam import QAMAgent
from utils.errors import UserError
from utils.spec import Spec

# The class of each method, by the `agent_name` that its `get_config()` sets.
agents = {
    'bfn': BFNAgent,
    'dfp': DFPAgent,
    'fql': FQLAgent,
    'mvp': MVPAgent,
    'qam': QAMAgent,
}


def find_class(name: str | None) -> type[Agent]:
    """Returns the class of a method by its name, such as 'dfp'.

    Raises:
        UserError: there is no such method.
    """
    if name not in agents:
        raise UserError(f'agent_name={name}: unknown; there are {", ".join(agents)}')
    return agents[name]


def get_config(name: str) -> ml_collections.ConfigDict:
    """Returns the default settings of a method by its name, such as 'dfp'.

    Raises:
        UserError: there is no such method.
    """
    return sys.modules[find_class(name).__module__].get_config()


def check_settings(settings: Mapping[str, Any], horizon_length: int, discount: float) -> None:
    """Raises UserError if no agent can be made with these settings; see `Agent.create`."""
    agent_class = find_class(settings.get('agent_name'))
    known = get_config(settings['agent_name'])
    if different := sorted(set(settings) ^ set(known)):
        problem = 'unknown' if different[0] in settings else 'missing'
        raise UserError(f'--agent.{different[0]}: {problem}; there are {", ".join(sorted(known))}')
    agent_class.check_config(ml_collections.ConfigDict(settings))
    agent_class.check_horizon(horizon_length, discount)


def make_agent(description: Mapping[str, Any], seed: int) -> Agent:
    """Makes the agent that a run or a checkpoint describes.

    Args:
        description: `agent` (the method's settings; those it lacks, as an older checkpoint may, are
            the defaults), `transition` (`Spec.to_json` of the data), `horizon_length`, `discount`,
            `frame_stack` and `p_aug`, as `Agent.create` takes them.
        seed: of the run.

    Raises:
        UserError: there is no such method, or a setting cannot work.
    """
    name = description['agent'].get('agent_name')
    settings = get_config(name).to_dict() | dict(description['agent'])
    return find_class(name).create(
        seed,
        Spec.from_json(description['transition']),
        ml_collections.ConfigDict(settings),
        description['horizon_length'],
        description['discount'],
        description['frame_stack'],
        description['p_aug'],
    )
