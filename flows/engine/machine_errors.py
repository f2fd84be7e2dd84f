"""What the machine refused (disk, memory, files, network) where no other place could say it better: a sentence."""

import errno

from mhim_core.errors import MachineError

_ADVICE = {
    errno.ENOSPC: "free some space, or set TMPDIR and the output keys to folders on a disk that has some",
    errno.EDQUOT: "the quota is used up: free some space, or choose folders elsewhere",
    errno.EROFS: "the file system is mounted read-only: choose a folder elsewhere",
    errno.EACCES: "change its permissions, or choose a folder of your own",
    errno.EPERM: "change its permissions, or choose a folder of your own",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or ask for fewer workers",
    errno.ENFILE: "the machine has too many files open: ask for fewer workers, or wait for other work to end",
    errno.ENOMEM: "ask for fewer workers, or use a machine with more memory",
    errno.EAGAIN: "the machine gives no more processes or threads (ulimit -u): ask for fewer workers",
    errno.EIO: "the disk or the network file system failed: its system log says more",
    errno.ESTALE: "the network file system lost this file: run again",
    errno.ENAMETOOLONG: "choose shorter folder names",
    errno.ETIMEDOUT: "the network gave no answer: run again",
    errno.ECONNREFUSED: "no service listens there: check that it runs",
    errno.ECONNRESET: "the network broke the connection: run again",
    errno.EHOSTUNREACH: "the network does not reach it",
    errno.ENETUNREACH: "the network does not reach it",
}
"""By errno. What is not listed, such as a file that is not there, is as likely a bug as a fault of the machine."""


def machine_error(error: BaseException) -> MachineError | None:
    """The sentence for what the machine refused; None for any other error."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's, of a GPU
        resource = "memory of the GPU" if type(error).__module__.startswith("torch") else "memory"
        return MachineError(f"not enough {resource}; {_ADVICE[errno.ENOMEM]}; run again to go on")
    if not isinstance(error, OSError) or error.errno not in _ADVICE:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f" ({' → '.join(names)})" if names else ""
    return MachineError(f"{error.strerror}{where}; {_ADVICE[error.errno]}; what was committed is kept")
