"""Checkpoints: one directory with the agent's arrays (orbax) and what is needed to rebuild it."""

import json
import pathlib

import flax
import jax

METADATA = 'agent.json'


def save(directory: str | pathlib.Path, agent, metadata: dict) -> None:
    """Writes the agent's arrays and `metadata` (JSON); an unfinished one is never taken for whole.

    Args:
        directory: must not exist yet.
        agent: a pytree.
        metadata: what `read_metadata` returns later.
    """
    import orbax.checkpoint as ocp  # two seconds to import, needed at the end of a run

    directory = pathlib.Path(directory).absolute()
    directory.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / 'state', flax.serialization.to_state_dict(agent))
    (directory / METADATA).write_text(json.dumps(metadata, indent=2))


def restore(directory: str | pathlib.Path, agent):
    """Returns `agent` with the arrays of a checkpoint.

    Args:
        directory: a checkpoint's.
        agent: of the same shapes as the one saved.

    Raises:
        ValueError: there is no checkpoint, or it does not fit the agent.
    """
    import orbax.checkpoint as ocp

    read_metadata(directory)
    directory = pathlib.Path(directory).absolute()
    template = flax.serialization.to_state_dict(agent)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            state = checkpointer.restore(directory / 'state', abstract)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f'--restore_path={directory}: does not fit this agent; start it with the agent '
                f'settings in its {METADATA}. ({error})'
            ) from error
    return flax.serialization.from_state_dict(agent, state)


def read_metadata(directory: str | pathlib.Path) -> dict:
    """Returns what `save` was given.

    Raises:
        ValueError: there is no whole checkpoint at that place.
    """
    path = pathlib.Path(directory) / METADATA
    if not path.is_file():
        raise ValueError(
            f'--restore_path={directory}: no checkpoint there (no {METADATA}); give a directory '
            'like exp/<group>/<env>/<run>/checkpoints/online'
        )
    return json.loads(path.read_text())
