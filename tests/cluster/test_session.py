"""Where Ray may be, and that a wrong address is told in a sentence, soon."""

import http.server
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from cluster.session import (
    Resources,
    _rays_messages_logged,
    check_address,
    check_fits_here,
    kept_alive,
    num_shares,
    plain_errors,
    ray_session,
)
from mhim_core.errors import ConfigError, MachineError, MhimError

HOST = "127.0.0.1"


@pytest.fixture
def unused(free_port: Callable[[], int]) -> int:
    """A port where nobody listens."""
    return free_port()


@pytest.fixture
def web_server() -> Iterator[str]:
    """Something else that answers."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((HOST, 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"{HOST}:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("address", ["local", "auto", "head:6379", "10.0.0.1:6379"])
def test_local_auto_and_host_with_port_are_addresses(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("ray://head:10001", "ray_address=host:6379"),
        ("http://head:8265", "mhim submit"),
        ("https://head", "mhim submit"),
        ("head", "host:port"),
        ("head:", "host:port"),
        ("head:0", "host:port"),
        ("head:99999", "host:port"),
        ("", "host:port"),
        ("head:6379 --x", "host:port"),
    ],
)
def test_any_other_address_is_refused_with_advice(address: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        check_address(address)


def test_an_address_where_nobody_listens_is_told_at_once(unused: int) -> None:
    start_s = time.monotonic()
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at ray_address={HOST}:{unused}"):
        ray_session(f"{HOST}:{unused}").__enter__()
    assert time.monotonic() - start_s < 20


def test_an_address_where_something_else_listens_is_told_at_once(web_server: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(ConfigError, match=f"what answers at ray_address={web_server} .* is no Ray cluster"):
        ray_session(web_server).__enter__()
    assert time.monotonic() - start_s < 20


def test_auto_takes_the_address_of_the_job_and_tells_if_it_is_dead(
    unused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{HOST}:{unused}")
    with pytest.raises(ConfigError, match=f"ray_address=auto .*{unused}"):
        ray_session("auto").__enter__()


def test_auto_believes_no_stale_note_of_a_stopped_cluster(
    unused: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(f"{HOST}:{unused}\n")
    with pytest.raises(ConfigError, match=f"ray_address=auto .*{unused}"):
        ray_session("auto").__enter__()


def test_a_local_session_has_the_cpus_asked_for_says_nothing_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    import ray

    with kept_alive():
        with ray_session("local", local_cpus=2) as cluster:
            assert (cluster.num_nodes, cluster.num_cpus, cluster.num_gpus, cluster.is_local) == (1, 2.0, 0.0, True)
            assert {"raylet", "gcs_server"} <= ray._private.worker._global_node.all_processes.keys()
            assert not {"monitor", "log_monitor"} & ray._private.worker._global_node.all_processes.keys()
        assert ray.is_initialized()
        with kept_alive(), ray_session("local", local_cpus=5) as cluster:
            assert cluster.num_cpus == 2.0  # the session that is open already
        assert ray.is_initialized()
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert not ray.is_initialized()
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


@pytest.mark.thorough
@pytest.mark.fault(44)
def test_a_raylet_that_is_stopped_is_found_out_though_it_listens_and_waited_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("initial_delay_ms", 0), ("period_ms", 500), ("timeout_ms", 500), ("failure_threshold", 2)):
        monkeypatch.setenv(f"RAY_health_check_{name}", str(value))  # a minute, otherwise
    monkeypatch.setattr("cluster.session._ASK_EVERY", 1)

    warned: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: warned.append(number))

    def stop_and_wait() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)  # a batch system's, and none of ours
        assert warned == [signal.SIGUSR1]
        (raylet,) = ray._private.worker._global_node.all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGSTOP)
        time.sleep(60)

    start_s = time.monotonic()
    with pytest.raises(MachineError, match="raylet"), ray_session("local", local_cpus=1):
        stop_and_wait()
    assert signal.signal(signal.SIGUSR1, before) is not before, "given back to whoever had it"
    assert time.monotonic() - start_s < 60
    assert not ray.is_initialized()
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.parametrize(
    ("num_gpus", "share", "expected"),
    [(1, 1.0, 1), (1, 0.1, 10), (2, 0.25, 8), (2, 0.6, 2), (1, 0.6, 1), (4, 2.0, 2), (3, 2.0, 1), (0, 0.5, 0)],
)
def test_a_share_of_a_gpu_lies_on_one_gpu(num_gpus: float, share: float, expected: int) -> None:
    assert num_shares(num_gpus, share) == expected


def test_more_processes_than_this_machine_has_room_for_are_refused_naming_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.session.usable_cpus", lambda: 4)
    monkeypatch.setattr("cluster.session._usable_gpus", lambda: 1)
    check_fits_here(None, "workers=4", 4)
    check_fits_here(8, "workers=8", 8)
    check_fits_here(None, "workers=4", 4, 0.25)
    with pytest.raises(ConfigError, match="workers=5 asks for 5 CPUs and ray_address=local has 4"):
        check_fits_here(None, "workers=5", 5)
    with pytest.raises(ConfigError, match="local has 2"):
        check_fits_here(2, "workers=4", 4)
    with pytest.raises(ConfigError, match=r"workers=2 asks for 1\.2 GPUs and PyTorch finds 1"):
        check_fits_here(None, "workers=2", 2, 0.6)


def test_a_cluster_tells_what_it_lacks_and_nothing_where_there_is_room() -> None:
    cluster = Resources(2, 3.0, 1.0, is_local=False)
    assert cluster.shortage(3) is None
    assert cluster.shortage(2, 0.5) is None
    assert cluster.shortage(4) == "waiting for CPUs: 4 are asked for, the cluster has 3"
    sentence = "waiting for CPUs and GPUs: 3 and 1.5 are asked for, the cluster has 3 and 1"
    assert cluster.shortage(3, 0.5) == sentence


def test_ray_s_own_errors_become_one_sentence() -> None:
    import ray

    long = 'ray::f() (pid=1)\nTraceback (most recent call last):\n  File "x", line 1\nValueError: the reason\n'
    sentence = r"^embedding ended with RayError: ValueError: the reason; run again"
    with pytest.raises(MhimError, match=sentence) as caught, plain_errors("embedding"):
        raise ray.exceptions.RayError(long)
    assert isinstance(caught.value.__cause__, ray.exceptions.RayError)
    headed = "Training failed due to:\nthe start timed out. Potential causes: (1) the moon"
    with pytest.raises(MhimError, match="Training failed due to: the start timed out;"), plain_errors("training"):
        raise ray.exceptions.RayError(headed)
    with pytest.raises(ConfigError, match="ours"), plain_errors("embedding"):
        raise ConfigError("ours")


def test_what_ray_says_of_itself_goes_to_the_log_and_that_memory_was_full_to_the_terminal_too(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    full = "2 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed"
    before = ray._private.worker.print_to_stdstream
    with _rays_messages_logged():
        for text in ("The actor died unexpectedly before finishing this task.", full):
            # as ray._private.worker.listen_error_messages does
            ray._private.worker.print_to_stdstream(
                {"lines": [text], "pid": "raylet", "is_err": False}, ignore_prefix=False
            )
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(",")[0] for line in said.err.splitlines()] == ["warning: a node's memory was full"]
    assert [full in record.getMessage() for record in caplog.records] == [False, True]
    assert ray._private.worker.print_to_stdstream is before


def test_importing_the_module_imports_no_ray() -> None:
    import subprocess

    imported = "cluster.session, cluster.decoding, cluster.staging"
    program = f"import sys, {imported}; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.fault(46)
@pytest.mark.parametrize(("limit", "kind"), [("raise ulimit -n", ConfigError), (None, MachineError)])
def test_a_ray_that_does_not_start_is_named_with_the_setting_that_helps(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, kind: type[Exception]
) -> None:
    def never_comes_up(**options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because")  # as Ray words it

    monkeypatch.setattr("ray.init", never_comes_up)
    monkeypatch.setattr("cluster.session.limit_in_the_way", lambda error: limit)
    with pytest.raises(kind, match="The current node timed out during startup") as raised, ray_session("local"):
        pass
    assert limit is None or limit in str(raised.value)
    assert not ray.is_initialized()


@pytest.mark.fault(50)
def test_while_ray_starts_sigterm_is_still_the_commands_own(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = []

    def starts(**options: object) -> None:
        ray._private.utils.set_sigterm_handler(lambda number, frame: pytest.fail("Ray's own handler"))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
        raise ConnectionError("as far as it came")

    before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    try:
        monkeypatch.setattr("ray.init", starts)
        with pytest.raises(MachineError), ray_session("local"):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signals == [signal.SIGTERM]
