"""What learns: one file per method, and `base.py` with what all of them share."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from agents.base import Agent
from agents.bfn import BFNAgent
from agents.dfp import DFPAgent
from agents.fql import FQLAgent
from agents.mvp import MVPAgent

# `config.agent_name`, set by each method's `get_config()`, to its class.
agents = {
    'bfn': BFNAgent,
    'dfp': DFPAgent,
    'fql': FQLAgent,
    'mvp': MVPAgent,
}


def make_agent(description: Mapping[str, Any], seed: int) -> Agent:
    """Makes the agent that a run or a checkpoint describes.

    Args:
        description: `agent` (the method's settings), `observation_dim`, `action_dim`,
            `horizon_length` and `discount`.
        seed: of its parameters and draws.

    Raises:
        ValueError: there is no such method, or a setting cannot work.
    """
    config = ml_collections.ConfigDict(description['agent'])
    name = config.get('agent_name')
    if name not in agents:
        raise ValueError(f'agent_name={name}: unknown; there are {", ".join(agents)}')
    return agents[name].create(
        seed,
        description['observation_dim'],
        description['action_dim'],
        config,
        description['horizon_length'],
        description['discount'],
    )
