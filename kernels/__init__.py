"""Operations on long sequences: one folder each, (batch, length, channels) throughout."""

from dnamamba.kernels.conv import causal_conv1d, causal_conv1d_update
from dnamamba.kernels.norm import rms_norm
from dnamamba.kernels.packing import sequence_index
from dnamamba.kernels.scan import selective_scan, selective_state_update
from dnamamba.kernels.ssd import ssd_scan

__all__ = [
    "causal_conv1d",
    "causal_conv1d_update",
    "rms_norm",
    "selective_scan",
    "selective_state_update",
    "sequence_index",
    "ssd_scan",
]
