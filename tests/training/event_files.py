"""Event files, read back as TensorBoard reads them."""

import struct
from pathlib import Path


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """Return the scalars by name and step, without what a later file says is gone."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c

    scalars: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[8:]
            body, (checksum,) = data[4 : 4 + length], struct.unpack("<I", data[4 + length :][:4])
            assert masked_crc32c(body) == checksum
            data = data[8 + length :]
            if event.session_log.status == SessionLog.START:
                scalars = {
                    name: {step: value for step, value in values.items() if step < event.step}
                    for name, values in scalars.items()
                }
            for value in event.summary.value:
                values = scalars.setdefault(value.tag, {})
                assert event.step not in values
                values[event.step] = value.simple_value
    return scalars
