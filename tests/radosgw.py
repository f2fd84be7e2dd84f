"""Ceph's radosgw on the loopback, for the tests of S3: a store by other authors than moto's, which checks signatures.

    python tests/radosgw.py              # starts it, prints its settings, stops it at Ctrl-C
    python tests/radosgw.py COMMAND …    # starts it, runs the command with the settings, exits as the command does

One monitor, one OSD in memory and one gateway, with their files in a temporary folder: 14 s to start. Where it is not
installed, it says so, runs nothing and exits with 0.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

HOST = "127.0.0.1"
KEY, SECRET = "testing", "canary-of-a-secret-key"
INSTALLATION = "apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr"
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_LIMIT_S = 120
STOP_LIMIT_S = 20

_CONF = """
[global]
fsid = {fsid}
mon host = [v2:{host}:{mon_port}]
public addr = {host}
public network = 127.0.0.0/8
ms bind msgr1 = false
auth cluster required = none
auth service required = none
auth client required = none
# what goes without authentication cannot be encrypted
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
keyring = {folder}/keyring
run dir = {folder}
log file = {folder}/$name.log
admin socket =
pid file =
mon data = {folder}/mon
mon allow pool size one = true
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 1000
# or each small GET waits 40 ms for an acknowledgement
rgw frontends = beast endpoint={host}:{rgw_port} tcp_nodelay=1
rgw gc max objs = 1
rgw enable usage log = false
"""


@contextlib.contextmanager
def radosgw() -> Iterator[str]:
    """The endpoint of one that lives as long as the block. Raises RuntimeError with the end of its logs."""
    with tempfile.TemporaryDirectory(prefix="radosgw-") as name, contextlib.ExitStack() as daemons:
        folder = Path(name)
        mon_port, rgw_port = _free_port(), _free_port()
        conf = folder / "ceph.conf"
        fsid, osd_uuid = str(uuid.uuid4()), str(uuid.uuid4())
        conf.write_text(_CONF.format(fsid=fsid, folder=folder, host=HOST, mon_port=mon_port, rgw_port=rgw_port))

        def call(program: str, *words: str) -> str:
            return _call([program, "--conf", str(conf), *words], folder)

        def start(program: str, *words: str) -> None:
            daemons.enter_context(_running([program, "--conf", str(conf), "--foreground", *words], folder))

        _call(
            ["monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:{HOST}:{mon_port}]", f"{folder}/monmap"],
            folder,
        )
        _call(["ceph-authtool", "--create-keyring", f"{folder}/keyring", "--gen-key", "--name", "mon."], folder)
        call("ceph-mon", "--mkfs", "--id", "a", "--monmap", f"{folder}/monmap")
        start("ceph-mon", "--id", "a")
        call("ceph", "--connect-timeout", str(START_LIMIT_S), "osd", "new", osd_uuid)
        (folder / "osd").mkdir()
        call("ceph-osd", "--mkfs", "--id", "0", "--osd-uuid", osd_uuid)
        start("ceph-osd", "--id", "0")
        words = ("--uid", "tests", "--display-name", "tests", "--access-key", KEY, "--secret", SECRET)
        call("radosgw-admin", "user", "create", *words)
        start("radosgw", "--name", "client.tests")
        _wait_until(lambda: _listens(rgw_port), folder)
        yield f"http://{HOST}:{rgw_port}"


@contextlib.contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    """A daemon of our own, stopped by its process id."""
    with (folder / "output").open("ab") as output:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _call(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}\n{_last_output(folder)}")
    return done.stdout


def _wait_until(holds: Callable[[], bool], folder: Path) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"radosgw did not start within {START_LIMIT_S} s:\n{_last_output(folder)}")
        time.sleep(0.1)


def _last_output(folder: Path) -> str:
    output = folder / "output"
    return output.read_text(errors="replace")[-2000:] if output.exists() else ""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def main(command: list[str]) -> int:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        print(f"skipped, for want of {', '.join(missing)}: {INSTALLATION} brings them", file=sys.stderr)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with radosgw() as endpoint:
        settings = {"MHIM_TEST_S3_ENDPOINT": endpoint, "MHIM_TEST_S3_KEY": KEY, "MHIM_TEST_S3_SECRET": SECRET}
        for name, value in settings.items():
            print(f"{name}={value}", flush=True)
        if command:
            return subprocess.run(command, env=os.environ | settings, check=False).returncode
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
