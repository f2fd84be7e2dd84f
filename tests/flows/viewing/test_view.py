"""The command: what it refuses before it serves, and how it ends."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.view import ViewConfig
from mhim_core.errors import ConfigError


def test_there_must_be_something_to_look_at(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "run=" in refused("view")
    assert str(tmp_path) in refused("view", f"run={tmp_path}")
    assert str(tmp_path) in refused("view", f"predictions={tmp_path}")
    assert str(tmp_path) in refused("view", f"store={tmp_path}")


@pytest.mark.parametrize(("host", "is_local"), [("127.0.0.1", True), ("localhost", True), ("::1", True)])
def test_own_addresses_need_no_token(host: str, is_local: bool) -> None:
    assert ViewConfig(host=host).is_local is is_local


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "viewer.example", "127.0.0.1.example", "localhost.example"]
)
def test_every_other_address_does(host: str) -> None:
    assert not ViewConfig(host=host).is_local


@pytest.mark.parametrize("token", ["short", "with spaces in it, long", "a" * 20 + "\n", "a" * 20 + ";"])
def test_a_token_that_could_be_guessed_or_breaks_a_cookie_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        ViewConfig(token=token)


@pytest.mark.thorough
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_serves_until_it_is_told_to_end(viewed: Any, sent: signal.Signals, code: int) -> None:
    words = [sys.executable, "-m", "flows.cli", "view", f"run={viewed.run}", "port=0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(found[1] for line in server.stdout if (found := re.match(r"view: (\S+)", line)))
            with urllib.request.urlopen(f"{address}api/about", timeout=60) as answer:
                assert answer.status == 200
            server.send_signal(sent)
            out, err = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == code, out + err
    assert "Traceback" not in out + err
