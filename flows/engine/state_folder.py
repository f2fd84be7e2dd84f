"""The folder for a user's own files on this machine: tracebacks, and logs of runs in progress."""

import os
import tempfile
from pathlib import Path


def state_folder() -> Path:
    """By the XDG rules, or in the temporary folder for a user without a home; it need not exist yet."""
    chosen = os.environ.get("XDG_STATE_HOME")
    if chosen:
        return Path(chosen, "mhim")
    try:
        return Path.home() / ".local/state/mhim"
    except RuntimeError:  # no HOME, and a user that the machine does not know: a container's
        return Path(tempfile.gettempdir(), f"mhim-state-{os.getuid()}")
