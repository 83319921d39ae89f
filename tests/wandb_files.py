"""Reads what W&B writes in its offline mode: records in the blocks of a LevelDB log."""

import json
import struct

HEADER, BLOCK = 7, 32768  # bytes: of the file and of each piece; of a block
WHOLE, LAST = 1, 4  # kinds of pieces that end a record


def read_records(folder):
    """Returns the records of each W&B run in a run's folder, one list for each start, in order."""
    paths = sorted(folder.glob('wandb/offline-run-*/run-*.wandb'))
    return [list(_records(path.read_bytes())) for path in paths]


def _records(content):
    from wandb.proto.wandb_internal_pb2 import Record

    assert content.startswith(b':W&B')
    position, record = HEADER, b''
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        size, kind = struct.unpack_from('<HB', content, position + 4)
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
