"""Checkpoints of other code, a file a format; a new one is a file here and its row in `FORMATS`. No torch at import."""

from mhim_core.mil.formats.clam import CLAM
from mhim_core.mil.formats.format import CheckpointFormat
from mhim_core.mil.formats.mhim_mil import MHIM_MIL

FORMATS: dict[str, CheckpointFormat] = {item.name: item for item in (MHIM_MIL, CLAM)}
"""By name; a checkpoint is read as the first format that recognises its tensors."""
WRITTEN_FORMATS = tuple(name for name, item in FORMATS.items() if item.write is not None)
