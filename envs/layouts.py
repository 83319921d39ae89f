"""The layouts of data files, and warnings about suspicious data.

- A row per state: the last row of an episode is its final state, whose action and reward are
  ignored. So each state is stored once, as the next state of the row before it. All data is
  converted to this layout.
- A row per transition, with `next_observations`.
- The same without `next_observations`, as in D4RL's own files with `timeouts` or `truncations`. The
  state after the last action of an episode is unknown then. If that action ended the task, its
  value is never needed; else the action is dropped, as D4RL does.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from envs.npz import Column, DataFile

ACTION_LIMIT = 1 - 1e-5  # the data's actions are clipped to it, inside the open interval
OUTSIDE = 1e-3  # how far an action may leave its bounds, as a fraction of their range
ADD = 'add next_observations, or a final row per episode, marked by terminals'
BLOCK = 10_000  # rows compared at a time, to bound temporary memory

# Arrays that mark the end of an episode in a file of transitions: terminated or truncated.
ENDED, CUT = ('terminals', 'terminations', 'dones'), ('timeouts', 'truncations')

Arrays = dict[str, np.ndarray]


def nest(arrays: Arrays) -> dict[str, Any]:
    """Returns arrays with 'observations/<name>' nested in a dict 'observations'."""
    parts = {key.partition('/')[2]: rows for key, rows in arrays.items() if '/' in key}
    others: dict[str, Any] = {key: rows for key, rows in arrays.items() if '/' not in key}
    return {'observations': parts} | others if parts else others


def check(file: DataFile, columns: Mapping[str, Column], env_name: str) -> int:
    """Checks a file, as far as possible without reading all of it if it has a row per state.

    Args:
        file: to check.
        columns: of observations, 'actions' and 'rewards'.
        env_name: of the environment, for errors.

    Returns:
        The number of rows that `read` returns.

    Raises:
        DatasetError: it has another layout, or does not fit the environment.
    """
    flags = _flags(file, (*ENDED, *CUT, 'masks'))
    if _has_transitions(file, columns):
        file.check({**columns, **_next(file, columns), **flags}, env_name)
        return len(read(file, columns)['terminals'])
    if wrong := [key for key in flags if key in ENDED[1:]]:
        missing = 'but neither next_observations nor timeouts or truncations'
        raise file.error(f'has {wrong[0]}, so each row is a transition, {missing}; {ADD}')
    num_rows = file.check({**columns, 'terminals': Column((), bool), **flags}, env_name)
    file.read_terminals()
    return num_rows


def _has_transitions(file: DataFile, columns: Mapping[str, Column]) -> bool:
    return bool(_next(file, columns) or _flags(file, CUT))


def _next(file: DataFile, columns: Mapping[str, Column]) -> dict[str, Column]:
    """Returns the arrays of next observations: all of them, or none if none is there."""
    found = {f'next_{key}': columns[key] for key in columns if key.startswith('observations')}
    return found if any(key in file for key in found) else {}


def _flags(file: DataFile, keys: tuple[str, ...]) -> dict[str, Column]:
    return {key: Column((), bool) for key in keys if key in file}


def read(file: DataFile, columns: Mapping[str, Column]) -> Arrays:
    """Reads a file of any of the layouts.

    Args:
        file: that passed `check`.
        columns: of observations, 'actions' and 'rewards'.

    Returns:
        These, masks [R] float32 and terminals [R] bool, in R rows, including one for the final
        state of each episode, where actions and rewards are 0 and masks 1.

    Raises:
        DatasetError: the file is damaged, or has invalid numbers.
    """
    read_layout = _read_transitions if _has_transitions(file, columns) else _read_states
    arrays = read_layout(file, columns)
    final = arrays['terminals']
    for key, value in (('actions', 0), ('rewards', 0), ('masks', 1)):
        arrays[key][final] = value
    for key in columns:
        file.check_finite(key, arrays[key])
    _warn_of_inversion(file.path, arrays)
    return arrays


def _read_states(file: DataFile, columns: Mapping[str, Column]) -> Arrays:
    terminals = file.read_terminals()
    arrays = {key: file.read(key, column.dtype) for key, column in columns.items()}
    masks = _read_masks(file, len(terminals))
    if masks[~terminals].all() and not masks[terminals].all():
        what = 'masks is 0 exactly in the rows that terminals marks, as if they were transitions'
        raise file.error(f'{what}; {ADD}')
    final, others = arrays['rewards'][terminals], arrays['rewards'][~terminals]
    if final.max() > others.max() and final.min() < final.max():  # not a constant filler
        what = 'the largest rewards are in rows that terminals marks, the final states of episodes'
        warn_once(f'{file.path}: {what}. They are ignored; if these are transitions, {ADD}.')
    return {**arrays, 'masks': masks, 'terminals': terminals}


def _read_transitions(file: DataFile, columns: Mapping[str, Column]) -> Arrays:
    flags = {key: file.read(key, bool) for key in _flags(file, (*ENDED, *CUT))}
    following = _next(file, columns)
    arrays = file.read_finite({**columns, **following})
    nowhere = np.zeros(len(arrays['rewards']), bool)
    cut = np.any([nowhere, *(flags[key] for key in CUT if key in flags)], axis=0)
    ends = np.any([nowhere, *flags.values()], axis=0)
    ends[-1] = True
    arrays['masks'] = _read_masks(file, len(ends))
    ended = next((flags[key] for key in ENDED if key in flags), nowhere)
    if 'masks' not in file:
        arrays['masks'][ended & ~cut if ended[cut].all() else ended] = 0  # it may mark all ends
    if not following:
        return rows_from_transitions(*_add_next(file, arrays, ends))
    for key in following:
        ends[:-1] |= _differ(arrays[key][:-1], arrays[key.removeprefix('next_')][1:])
    return rows_from_transitions(arrays, ends)


def _read_masks(file: DataFile, num_rows: int) -> np.ndarray:
    if 'masks' in file:
        return file.read('masks', bool).astype(np.float32)
    return np.ones(num_rows, np.float32)


def _add_next(file: DataFile, arrays: Arrays, ends: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """Adds next_observations to transitions, and leaves out those whose next state is unknown."""
    solved = arrays['masks'] == 0
    ends, unknown = ends | solved, ends & ~solved
    if unknown.all():
        raise file.error('an episode ends in every row, so there is no transition')
    following = np.where(ends, np.arange(len(ends)), np.arange(len(ends)) + 1)
    for key in [key for key in arrays if key.startswith('observations')]:
        arrays[f'next_{key}'] = arrays[key][following]
    ends = ends | np.roll(unknown, -1)
    return {key: rows[~unknown] for key, rows in arrays.items()}, ends[~unknown]


def _differ(states: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns a bool per row, [R], where two arrays [R, ...] differ by more than rounding."""
    found = np.zeros(len(states), bool)
    for start in range(0, len(states), BLOCK):
        rows = slice(start, start + BLOCK)
        same = np.isclose(states[rows], others[rows], rtol=1e-5, atol=1e-6)
        found[rows] = ~same.reshape(len(same), -1).all(axis=1)
    return found


def rows_from_transitions(transitions: Arrays, ends: np.ndarray) -> Arrays:
    """Stores each state once: adds a row for the final state of each episode.

    Args:
        transitions: arrays [T, ...]; 'next_<key>' is only used in rows that end an episode.
        ends: bool [T], where an episode ends, including the last row.

    Returns:
        The arrays [T + episodes, ...] without 'next_<key>', zero in final rows if there is no
        'next_<key>', and terminals, True in final rows.
    """
    after = np.flatnonzero(ends) + 1
    found = {'terminals': np.insert(np.zeros(len(ends), bool), after, True)}
    for key in [key for key in transitions if not key.startswith('next_')]:
        final = transitions.pop(f'next_{key}')[ends] if f'next_{key}' in transitions else 0
        found[key] = np.insert(transitions.pop(key), after, final, axis=0)
    return found


def to_unit(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Maps actions [R, d_a] from `low` [d_a] and `high` [d_a] to [−1, 1], as float32.

    They stay strictly inside the bounds, see `ACTION_LIMIT`.
    """
    unit = (2 * (actions - low) / (high - low) - 1).astype(np.float32, copy=False)
    return np.clip(unit, -ACTION_LIMIT, ACTION_LIMIT, out=unit)


def clip_actions(actions: np.ndarray, path: Path) -> np.ndarray:
    """Clips actions [R, d_a] to ±ACTION_LIMIT in place; warns about any outside [−1, 1]."""
    largest = np.maximum(actions.max(axis=1), -actions.min(axis=1))
    if number := int((largest > 1 + OUTSIDE).sum()):
        some, most = f'{number:,} of {len(actions):,} actions', f'{largest.max() - 1:.3g}'
        warn_once(f'{path}: {some} lie outside [-1, 1], by up to {most}; they are clipped.')
    return np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT, out=actions)


def _warn_of_inversion(path: Path, arrays: Arrays) -> None:
    rewards, ended, final = arrays['rewards'], arrays['masks'] == 0, arrays['terminals']
    last = np.roll(final, -1)  # the transition into a final state
    inside, others = ended[~final & ~last], rewards[~final & ~ended]
    if inside.sum() > len(inside) / 2:
        what = f'masks is 0 in {inside.mean():.0%} of the rows inside episodes'
        warn_once(f'{path}: {what}. 0 means that the action ended the task; is it inverted?')
    elif ended.any() and len(others) and rewards[ended].max() < others.min():
        what = f'all rewards of actions that end the task (at most {rewards[ended].max():g})'
        least = f'(at least {others.min():g})'
        warn_once(f'{path}: {what} are below all others {least}; is the sign right?')


@functools.cache
def warn_once(message: str) -> None:
    """Warns once, however often a file is read."""
    logging.warning(message)
