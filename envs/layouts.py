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
    if flags := [key for key in (*ENDED[1:], *CUT) if key in file]:
        _check_minari(file, columns)
    if _has_transitions(file, columns):
        flags = _flags(file, (*ENDED, *CUT, 'masks'))
        next_columns = _next(columns) if _has_next(file, columns) else {}
        file.check({**columns, **next_columns, **flags}, env_name)
        return len(read(file, columns)['terminals'])
    if flags:
        raise file.error(
            f'has {flags[0]}, so each row is a transition, but neither next_observations nor '
            'timeouts (or truncations), so it is unknown where an episode is truncated; add '
            'next_observations, or a final row per episode, marked by terminals'
        )
    flags = {'terminals': Column((), bool), **_flags(file, ('masks',))}
    num_rows = file.check({**columns, **flags}, env_name)
    file.read_terminals()
    return num_rows


def _check_minari(file: DataFile, columns: Mapping[str, Column]) -> None:
    first = next(iter(_next(columns))).removeprefix('next_')
    if first in file and 'actions' in file:
        more = (file.header(first)[0] or (0,))[0] - (file.header('actions')[0] or (0,))[0]
        if more > 0:
            raise file.error(
                f'has {more} more observations than actions, one for each episode as in Minari; '
                'write the next one of each transition to next_observations'
            )


def _has_transitions(file: DataFile, columns: Mapping[str, Column]) -> bool:
    return _has_next(file, columns) or any(key in file for key in CUT)


def _has_next(file: DataFile, columns: Mapping[str, Column]) -> bool:
    return any(key in file for key in _next(columns))


def _next(columns: Mapping[str, Column]) -> dict[str, Column]:
    return {f'next_{key}': columns[key] for key in columns if key.startswith('observations')}


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
    masks = np.ones(len(terminals), np.float32)
    if 'masks' in file:
        masks = file.read('masks', bool).astype(np.float32)
    if masks[~terminals].all() and not masks[terminals].all():
        raise file.error(
            'masks is 0 exactly in the rows that terminals marks, so these seem to be transitions, '
            'but next_observations is missing; add it, or a final row per episode'
        )
    final, others = arrays['rewards'][terminals], arrays['rewards'][~terminals]
    if final.max() > others.max() and final.min() < final.max():  # not a constant filler
        warn_once(
            f'{file.path}: the largest rewards are in rows that terminals marks. They are ignored, '
            'because such a row is the final state of an episode. If these rows are transitions, '
            'add next_observations.'
        )
    return {**arrays, 'masks': masks, 'terminals': terminals}


def _read_transitions(file: DataFile, columns: Mapping[str, Column]) -> Arrays:
    flags = {key: file.read(key, bool) for key in _flags(file, (*ENDED, *CUT))}
    has_next = _has_next(file, columns)
    arrays = file.read_finite({**columns, **(_next(columns) if has_next else {})})
    num_rows = len(arrays['rewards'])
    cut = np.zeros(num_rows, bool)
    for key in CUT:
        cut |= flags.get(key, False)
    masks = np.ones(num_rows, np.float32)
    if 'masks' in file:
        masks = file.read('masks', bool).astype(np.float32)
    elif key := next((key for key in ENDED if key in flags), None):
        ended = flags[key]
        masks[ended & ~cut if ended[cut].all() else ended] = 0  # it may mark whatever ends
    ends = functools.reduce(np.logical_or, flags.values(), np.zeros(num_rows, bool))
    ends[-1] = True
    arrays['masks'] = masks
    if not has_next:
        return rows_from_transitions(*_add_next(file, arrays, ends))
    for key in _next(columns):
        ends[:-1] |= _differ(arrays[key][:-1], arrays[key.removeprefix('next_')][1:])
    return rows_from_transitions(arrays, ends)


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
    terminals = np.zeros(len(ends) + ends.sum(), bool)
    terminals[np.flatnonzero(ends) + 1 + np.arange(ends.sum())] = True
    found = {'terminals': terminals}
    for key in [key for key in transitions if not key.startswith('next_')]:
        rows = transitions.pop(key)
        found[key] = np.zeros((len(terminals), *rows.shape[1:]), rows.dtype)
        found[key][~terminals] = rows
        if f'next_{key}' in transitions:
            found[key][terminals] = transitions.pop(f'next_{key}')[ends]
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
        warn_once(
            f'{path}: {number:,} of {len(actions):,} actions lie outside [-1, 1], by up to '
            f'{largest.max() - 1:.3g}; they are clipped.'
        )
    return np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT, out=actions)


def _warn_of_inversion(path: Path, arrays: Arrays) -> None:
    rewards, ended, final = arrays['rewards'], arrays['masks'] == 0, arrays['terminals']
    last = np.roll(final, -1)  # the transition into a final state
    inside, others = ended[~final & ~last], rewards[~final & ~ended]
    if inside.sum() > len(inside) / 2:
        warn_once(
            f'{path}: masks is 0 in {inside.mean():.0%} of the rows inside episodes. 0 means that '
            'the action ended the task; is it inverted?'
        )
    elif ended.any() and len(others) and rewards[ended].max() < others.min():
        warn_once(
            f'{path}: all rewards of actions that end the task (at most {rewards[ended].max():g}) '
            f'are below all others (at least {others.min():g}); is the sign right?'
        )


@functools.cache
def warn_once(message: str) -> None:
    """Warns once, however often a file is read."""
    logging.warning(message)
