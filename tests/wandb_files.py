"""Reads what W&B writes in its offline mode: records in the blocks of a LevelDB log."""

import json
import struct
import time

HEADER, BLOCK = 7, 32768  # bytes: of the file and of each piece; of a block
WHOLE, LAST = 1, 4  # kinds of pieces that end a record


def read_records(folder):
    """Returns the records of each W&B run in a run's folder, one list for each start, in order.

    W&B may still write when a run has ended; this waits for the record of its end.
    """
    paths = sorted(folder.glob('wandb/offline-run-*/run-*.wandb'))
    for _ in range(300):
        found = [list(_records(path.read_bytes())) for path in paths]
        if all(records and records[-1].HasField('exit') for records in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f'{paths}: not ended')


def _records(content):
    from wandb.proto.wandb_internal_pb2 import Record

    assert content.startswith(b':W&B')
    position, record = HEADER, b''
    while position + HEADER <= len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        size, kind = struct.unpack_from('<HB', content, position + 4)
        if position + HEADER + size > len(content):
            return
        record += content[position + HEADER : position + HEADER + size]
        position += HEADER + size
        if kind in (WHOLE, LAST):
            yield Record.FromString(record)
            record = b''


def history(records):
    """Returns the rows that were logged: values by name, '_step' among them."""
    return [
        {item.key or '.'.join(item.nested_key): json.loads(item.value_json)
         for item in record.history.item}
        for record in records
        if record.HasField('history')
    ]  # fmt: skip


def description(records):
    """Returns what W&B knows of the run: its id, project, group, tags, config."""
    return next(record.run for record in records if record.HasField('run'))
