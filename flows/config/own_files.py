"""Whether a file of this machine says what its user wants, or what another user may have put there."""

import os
import stat
from pathlib import Path

from mhim_core.errors import ConfigError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def require_own(path: Path) -> None:
    """Raises ConfigError if another user (root aside) could have written the file, or could replace it."""
    for place in (path, path.parent):
        status = place.stat()
        is_shared = bool(status.st_mode & _OTHERS_WRITE) and not (place != path and status.st_mode & stat.S_ISVTX)
        if status.st_uid not in (0, os.geteuid()) or is_shared:
            raise ConfigError(
                f"{place} can be written by other users of this machine; chmod go-w {place}, or use another"
            )
