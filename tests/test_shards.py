"""Shards in order, ahead of time, two at a time; bad ones named."""

import gc
import logging
import pathlib
import threading
import weakref

import numpy as np
import pytest

from training.shards import ShardReader
from utils.replay import Rows


class Shards:
    """A data set whose shard i has 3 + i rows, each with the number i."""

    def __init__(self, num):
        self.num_rows = tuple(range(3, 3 + num))
        self.paths = tuple(pathlib.Path(f'shard-{i:03}.npz') for i in range(num))
        self.loaded, self.threads = [], []

    def load(self, shard):
        self.loaded.append(shard)
        self.threads.append(threading.current_thread())
        num = self.num_rows[shard]
        return {
            'observations': np.full((num, 2), shard, np.float32),
            'actions': np.zeros((num, 1), np.float32),
            'rewards': np.zeros(num, np.float32),
            'masks': np.ones(num, np.float32),
            'terminals': np.arange(num) == num - 1,
        }


def take(reader, num):
    return [int(reader.take()[1].fields['observations'][0, 0]) for _ in range(num)]


def test_shards_come_in_order_again_and_again_and_of_one_size():
    reader = ShardReader(Shards(3))
    number, first = reader.take()
    assert (number, first.size, int(first.num_rows), int(first.num_starts)) == (0, 5, 3, 2)
    assert take(reader, 6) == [1, 2, 0, 1, 2, 0]
    number, second = reader.take()
    assert (number, second.size, int(second.num_starts)) == (1, 5, 3)


def test_of_each_shard_the_first_part_is_used():
    reader = ShardReader(Shards(8), proportion=0.5)
    counts = [int(reader.take()[1].num_starts) for _ in range(8)]
    assert counts == [1, 1, 2, 2, 3, 3, 4, 4]  # of 2 to 9 transitions
    _, rows = ShardReader(Shards(1), proportion=0.5).take()
    assert (rows.size, int(rows.num_rows), int(rows.num_starts)) == (2, 2, 1)
    with pytest.raises(ValueError, match=r'proportion=0\.1: leaves none of 2 transitions'):
        ShardReader(Shards(3), proportion=0.1).take()


def test_shards_are_read_in_the_background_and_no_sooner_than_told():
    shards = Shards(3)
    reader = ShardReader(shards)
    reader.take()
    assert shards.loaded == [0]
    reader.read_ahead()
    reader.read_ahead()
    assert take(reader, 1) == [1]
    assert shards.loaded == [0, 1]
    assert threading.current_thread() not in shards.threads
    reader.close()


def test_no_more_than_two_shards_are_in_memory(monkeypatch):
    arrays, most = [], []
    from_dataset = Rows.from_dataset

    def counted(*args):
        gc.collect()
        most.append(1 + sum(array() is not None for array in arrays))
        rows = from_dataset(*args)
        arrays.append(weakref.ref(rows.fields['observations']))
        return rows

    monkeypatch.setattr(Rows, 'from_dataset', counted)
    reader = ShardReader(Shards(4))
    _, data = reader.take()
    for _ in range(6):
        reader.read_ahead()
        _, data = reader.take()
    assert data.num_rows > 0
    assert len(most) == 7
    assert max(most) == 2


def test_episodes_that_are_all_shorter_than_a_chunk_are_warned_of_once(caplog):
    with caplog.at_level(logging.WARNING):
        ShardReader(Shards(2), horizon=2).take()
        assert caplog.messages == []
        take(ShardReader(Shards(2), horizon=5), 2)
    (said,) = caplog.messages
    assert 'no episode is as long as a chunk: the longest has 2 transitions, --horizon_l' in said
