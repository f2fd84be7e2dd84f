"""Every error this project raises on purpose.

    MhimError                      exit code
    ├── InputError (ValueError)    2   the user's configuration, table or file is wrong
    │   ├── ConfigError                a key, a value, an address
    │   ├── CohortError                the table of slides: columns, ids, labels, leakage
    │   ├── SplitError                 folds that cannot be made
    │   ├── TrustError                 a record of a registry that no trusted key has signed
    │   └── EncoderError               an unknown, gated or mismatching encoder
    ├── ConflictError              5   another run or store stands in the way
    ├── StorageError               6   unreachable or denied
    │   └── NotFoundError              the key is not there (also a KeyError)
    ├── MachineError               6   disk, memory, files or network of this machine gave out
    ├── DivergedError              1   a fit's loss is no longer a finite number
    ├── IntegrityError             1   a committed file does not match its sha256, or a schema is not ours
    ├── StoppedError               143 work was told to end, and has saved where it was
    └── SlideError                 -   one slide failed: a status row, never the run; carries a FailureReason

A message says what, which slide, what was found and what to set. All of them survive pickling, since they cross
process boundaries: every constructor takes its arguments by position and hands them to `Exception`.
"""

from mhim_core.types import ExitCode, FailureReason


class MhimError(Exception):
    """The root; `exit_code` is what the command line ends with."""

    exit_code: ExitCode = ExitCode.BUG


class InputError(MhimError, ValueError):
    """The user's input is wrong, and it was found before any work."""

    exit_code = ExitCode.BAD_INPUT


class ConfigError(InputError):
    """A configuration key, value or address is wrong."""


class CohortError(InputError):
    """The cohort table is wrong; the message lists every finding, one per line."""


class SplitError(InputError):
    """The asked-for splits cannot be made from this cohort."""


class TrustError(InputError):
    """Signed records were required, and this one is unsigned, wrongly signed, or older than one seen before."""


class EncoderError(InputError):
    """An encoder is unknown, its licence gates it, or its card is not the one asked for."""


class ConflictError(MhimError):
    """Another run or another store's content stands in the way; nothing was overwritten."""

    exit_code = ExitCode.CONFLICT


class StorageError(MhimError):
    """Storage is unreachable or denies access."""

    exit_code = ExitCode.STORAGE


class NotFoundError(StorageError, KeyError):
    """The key does not exist."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0]) if self.args else ""


class MachineError(MhimError):
    """The machine gave out: disk, memory, open files, network."""

    exit_code = ExitCode.STORAGE


class DivergedError(MhimError):
    """A fit's loss is no longer a finite number; every rank raises it alike, so that all can go on with another fit."""


class IntegrityError(MhimError):
    """A file is not what its record says: a flipped byte, a foreign schema, a missing part."""


class StoppedError(MhimError):
    """Work was told to end, as before its machine is taken away; where it was is saved, to go on from."""

    exit_code = ExitCode.TERMINATED


class SlideError(MhimError):
    """One slide failed. `SlideError(reason, message)`; the run goes on and counts it."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.message}"


class OtherFormatError(SlideError):
    """A whole file, but of another tool or another kind than the one that it is read as."""
