"""Data sets in many files ("shards"), read ahead of time by a thread."""

import itertools
import logging
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from envs import Dataset
from utils.errors import UserError
from utils.replay import Rows, first_transitions


class ShardReader:
    """Puts the shards of a data set on the device in turn, from the first again after the last.

    `read_ahead` starts to read, label and transfer the next one in the background; `take` waits
    for it. Drop the old shard between `take` and `read_ahead`; then at most two are in memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        on_bad_shard: str = 'fail',
        first: int = 0,
        proportion: float = 1.0,
    ):
        """Starts no reading yet.

        Args:
            dataset: from `envs.make_dataset`.
            on_bad_shard: what to do with a shard that cannot be used: 'fail', or 'skip' it with a
                warning that names it. Those that are known to be bad are skipped without one:
                `envs.make_dataset` gave it.
            first: number of the shard to begin with.
            proportion: of each shard's transitions to use, the first ones.
        """
        self._dataset, self._skip = dataset, on_bad_shard == 'skip'
        self._proportion = proportion
        self._size = max(dataset.num_rows) if len(dataset.paths) > 1 else None
        shards = dataset.usable if self._skip else range(len(dataset.paths))
        self._order = itertools.cycle(sorted(shards, key=lambda shard: (shard < first, shard)))
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
            UserError: the shard cannot be read (with 'skip': none can), which the message names, or
                the proportion leaves nothing of it.
        """
        self.read_ahead()
        coming, self._coming = self._coming, None
        assert coming is not None
        return coming.result()

    def close(self) -> None:
        """Ends the thread, after what it is reading."""
        self._executor.shutdown(cancel_futures=True)

    def _load(self) -> tuple[int, Rows]:
        for _ in self._dataset.paths:
            if (shard := next(self._order, None)) is None:
                break
            try:
                rows = self._dataset.load(shard)
            except (ValueError, OSError) as error:
                if not self._skip:
                    raise
                logging.warning('Skipping a shard. %s', error)
                continue
            if self._proportion < 1:
                rows = first_transitions(rows, self._proportion)
            return shard, jax.block_until_ready(Rows.from_dataset(rows, self._size))
        raise UserError(f'None of the shards can be read: {self._dataset.paths[0]}, …')
