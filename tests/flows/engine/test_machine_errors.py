"""What the machine refuses is a sentence with its file and an exit code, not an unexpected error."""

import errno
import os
from collections.abc import Callable

import pytest

from flows.engine.machine_errors import machine_error
from mhim_core.types import ExitCode

MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EMFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.ETIMEDOUT,
)


@pytest.mark.parametrize("code", MACHINE, ids=errno.errorcode.get)
def test_an_error_of_the_machine_names_the_file_and_what_happened(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], code: int
) -> None:
    def fail(config: object) -> None:
        raise OSError(code, os.strerror(code), "/data/x")

    monkeypatch.setattr("flows.check.run", fail)
    message = refused("check", "cohort=x", code=ExitCode.STORAGE)
    assert "/data/x" in message
    assert os.strerror(code) in message


def test_memory_that_gave_out_is_told(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    def fail(config: object) -> None:
        raise MemoryError

    monkeypatch.setattr("flows.check.run", fail)
    assert "memory" in refused("check", "cohort=x", code=ExitCode.STORAGE)


def test_the_memory_of_a_gpu_is_told_from_the_machine_s() -> None:
    torch = pytest.importorskip("torch")
    error = machine_error(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert error is not None
    assert "GPU" in str(error)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), OSError("words"), ValueError("a bug")])
def test_what_may_be_a_bug_is_none_of_the_machine_s(error: Exception) -> None:
    assert machine_error(error) is None
