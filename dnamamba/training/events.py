"""Event files for TensorBoard, where tensorboardX is installed.

Each event is appended at once, as rows of metrics.tsv are. tensorboardX's `SummaryWriter` hands
events to a thread instead: a `kill -9` loses the last ones, and a full disk lets it hang.
"""

import importlib.util
import math
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnamamba.errors import UsageError
from dnamamba.files import describe_os_error


def require_tensorboard() -> None:
    """Raise a UsageError where no event files can be written."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UsageError(
            "--tensorboard: tensorboardX is missing; pip install 'dnamamba[tensorboard]'"
        )


class EventFile:
    """Scalars by step, for TensorBoard.

    Parameters
    ----------
    folder
        Where it goes, beside the files of the run before it was resumed or went back.
    step
        Steps done: TensorBoard drops what the older files say of later ones.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        try:
            folder.mkdir(parents=True, exist_ok=True)
            number = len(list(folder.iterdir()))
        except OSError as error:
            raise describe_os_error(error, folder) from error
        # Read in the order of their names; the number is for files of the same second.
        self._path = folder / f"events.out.tfevents.{time.time():010.0f}.{number:06d}"
        self._append(Event(file_version="brain.Event:2"))
        self._append(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the values of a step; those that are not finite are left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
            if math.isfinite(value)
        ]
        self._append(Event(step=step, summary=Summary(value=values)))

    def _append(self, event: Any) -> None:
        from tensorboardX.record_writer import masked_crc32c

        event.wall_time = time.time()
        data = event.SerializeToString()
        # TFRecord: the length, the data, and a checksum after each.
        parts = (struct.pack("<Q", len(data)), data)
        record = b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in parts)
        try:
            with self._path.open("ab") as handle:
                handle.write(record)
        except OSError as error:
            raise describe_os_error(error, self._path) from error
