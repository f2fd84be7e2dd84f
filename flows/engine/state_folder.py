"""Where this machine keeps what is for its user alone: tracebacks, the logs of runs that go on."""

import os
from pathlib import Path


def state_folder() -> Path:
    """By the XDG rules; it need not be there."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state", "mhim")
