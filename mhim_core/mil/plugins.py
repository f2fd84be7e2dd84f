"""A user's own aggregators, from a file that can be named on the command line only. Standard library only.

The file is executed, so it needs the trust of a command: no cohort, model card or stored configuration can name one;
they only state the sha256 that the user's file must have.
"""

import sys
import types
from typing import NamedTuple

from mhim_core.errors import InputError
from mhim_core.fingerprint import sha256
from mhim_core.mil.registry import AGGREGATORS, registering
from mhim_core.storage import read_file
from mhim_core.user_code import MAX_BYTES, failing_line, failing_words


class Plugin(NamedTuple):
    """A loaded file: picklable, so that a worker can `load_plugin(*plugin.arguments)` before it makes a model."""

    file_name: str
    """For messages alone."""
    source: bytes
    sha256: str
    """Its identity: `ModelOptions.plugin_sha256` of the models that it makes."""
    names: tuple[str, ...]
    """The aggregators that it registers, sorted."""

    @property
    def arguments(self) -> tuple[bytes, str]:
        """What `load_plugin` was called with."""
        return self.source, self.file_name


def read_plugin(path: str) -> Plugin:
    """Load the file at a local path. Raises InputError, also where there is no such file, or a pipe."""
    try:
        return load_plugin(read_file(path, MAX_BYTES), path)
    except OSError as error:
        raise InputError(f"aggregator_file={path} cannot be read: {error.strerror}") from error


def load_plugin(source: bytes, file_name: str) -> Plugin:
    """Run a file's bytes as a module of its own; what it decorates with `register_aggregator` can then be named.

    Bytes that this process has loaded already are not run again. Raises InputError with the file's line where the file
    fails, and where it registers no aggregator or one of a built-in name; nothing is registered then.
    """
    digest = sha256(source)
    known = _names_of(digest)
    if known:
        return Plugin(file_name, source, digest, known)
    module = types.ModuleType(f"mhim_plugin_{digest[:16]}")
    module.__file__ = file_name
    sys.modules[module.__name__] = module  # dataclasses, pickle and annotations look their module up
    try:
        with registering(digest) as registered:
            exec(compile(source, file_name, "exec", dont_inherit=True), module.__dict__)
            if not registered:
                raise InputError('it registers no aggregator; put @register_aggregator("name") above its class')
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise InputError(
            f"aggregator_file={file_name}{failing_line(error, file_name)}: {failing_words(error)}"
        ) from error
    return Plugin(file_name, source, digest, _names_of(digest))


def _names_of(digest: str) -> tuple[str, ...]:
    return tuple(sorted(key.name for key in AGGREGATORS if key.plugin_sha256 == digest))
