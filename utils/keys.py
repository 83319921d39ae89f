"""Random keys: one root key per run, and one key for each purpose of its draws."""

import jax

# A purpose's number is its place here. Add new ones at the end, or the old keys change.
PURPOSES = ('parameters', 'batches', 'exploration', 'evaluation', 'restart')


def key_for(seed: int, purpose: str) -> jax.Array:
    """Returns the key of one purpose: the run's root key with the purpose's number folded in.

    Keys of different purposes are independent, so a purpose that draws more or less leaves the
    draws of the others as they are.

    Args:
        seed: of the run.
        purpose: one of `PURPOSES`. 'parameters': the networks' initial values. 'batches': which
            transitions are sampled, and the noise of losses and targets. 'exploration': actions in
            the online phase. 'evaluation': actions in evaluation episodes. 'restart': in place of
            'batches' for a run that starts from another one's agent.

    Raises:
        ValueError: the purpose is unknown.
    """
    if purpose not in PURPOSES:
        raise ValueError(f'purpose={purpose!r}: unknown; use {", ".join(PURPOSES)}')
    return jax.random.fold_in(jax.random.PRNGKey(seed), PURPOSES.index(purpose))
