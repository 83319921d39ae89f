"""Data sets in many files ("shards"), read ahead by a thread."""

import itertools
import logging
import pathlib
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from envs import Dataset
from utils.replay import Rows, first_transitions


class ShardReader:
    """Puts the shards of a data set on the device in turn, cyclically.

    `read_ahead` starts to read, label and transfer the next one in the background; `take` waits
    for it. If the old shard is dropped between `take` and `read_ahead`, at most two are in memory.
    """

    def __init__(self, dataset: Dataset, first: int = 0, proportion: float = 1.0, horizon: int = 1):
        """Does not start to read yet.

        Args:
            dataset: from `envs.make_dataset`.
            first: number of the first shard to take.
            proportion: of each shard's transitions to use, the first ones.
            horizon: transitions in a chunk. If no episode is as long, it warns.
        """
        self._dataset = dataset
        self._proportion, self._horizon = proportion, horizon
        self._size = max(dataset.num_rows) if len(dataset.paths) > 1 else None
        num_shards = len(dataset.paths)
        self._order = itertools.cycle((first + i) % num_shards for i in range(num_shards))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix='shards')
        self._coming: Future | None = None

    def __len__(self) -> int:
        return len(self._dataset.paths)

    def read_ahead(self) -> None:
        """Starts to read the next shard."""
        if self._coming is None:
            self._coming = self._executor.submit(self._load)

    def take(self) -> tuple[int, Rows]:
        """Returns the number of the next shard and its rows, with the same `size` for all shards.

        Raises:
            UserError: the shard cannot be read, or the proportion leaves nothing of it.
        """
        self.read_ahead()
        coming, self._coming = self._coming, None
        assert coming is not None
        return coming.result()

    def close(self) -> None:
        """Ends the thread after its current read."""
        self._executor.shutdown(cancel_futures=True)

    def _load(self) -> tuple[int, Rows]:
        shard = next(self._order)
        rows = self._dataset.load(shard)
        if self._proportion < 1:
            rows = first_transitions(rows, self._proportion)
        self._warn_of_short_episodes(self._dataset.paths[shard], rows['terminals'])
        return shard, jax.block_until_ready(Rows.from_dataset(rows, self._size))

    def _warn_of_short_episodes(self, path: pathlib.Path, terminals: np.ndarray) -> None:
        longest = int(np.diff(np.flatnonzero(terminals), prepend=-1).max()) - 1
        if longest < self._horizon:
            logging.warning(
                '%s: no episode is as long as a chunk: the longest has %d transitions, '
                '--horizon_length=%d; policies learn from full chunks, so choose a shorter one.',
                path, longest, self._horizon,
            )  # fmt: skip
            self._horizon = 0  # warn once
