"""A run: its config, its state, the loop that makes it, and what it leaves."""

from training.config import RunConfig
from training.interruption import Interrupted
from training.run import Result, is_complete, load_agent, load_agents, load_policy, train, why_stale

__all__ = [
    'Interrupted',
    'Result',
    'RunConfig',
    'is_complete',
    'load_agent',
    'load_agents',
    'load_policy',
    'train',
    'why_stale',
]
