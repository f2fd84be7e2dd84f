"""Where this machine keeps what is for its user alone: tracebacks, the logs of runs that go on."""

import os
import tempfile
from pathlib import Path


def state_folder() -> Path:
    """By the XDG rules, or in the temporary folder for a user without a home; it need not be there."""
    chosen = os.environ.get("XDG_STATE_HOME")
    if chosen:
        return Path(chosen, "mhim")
    try:
        return Path.home() / ".local/state/mhim"
    except RuntimeError:  # no HOME, and a user that the machine does not know: a container's
        return Path(tempfile.gettempdir(), f"mhim-state-{os.getuid()}")
