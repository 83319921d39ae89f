"""Random keys: one root key per run, and one key per purpose."""

import jax

# A purpose's number is its index. Add new ones at the end, or old keys change.
PURPOSES = ('parameters', 'batches', 'exploration', 'evaluation', 'restart')


def key_for(seed: int, purpose: str) -> jax.Array:
    """Returns the key of a purpose: the run's root key with the purpose's number folded in.

    Keys of different purposes are independent, so more or fewer draws for one purpose do not change
    the draws for the others.

    Args:
        seed: of the run.
        purpose: one of `PURPOSES`. 'parameters': the networks' initial values. 'batches': sampling
            of transitions, and the noise of losses and targets. 'exploration': online actions.
            'evaluation': actions in evaluation episodes. 'restart': replaces 'batches' in a run
            that starts from another run's agent.

    Raises:
        ValueError: the purpose is unknown.
    """
    if purpose not in PURPOSES:
        raise ValueError(f'purpose={purpose!r}: unknown; use {", ".join(PURPOSES)}')
    return jax.random.fold_in(jax.random.PRNGKey(seed), PURPOSES.index(purpose))
