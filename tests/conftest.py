"""Fixtures for all tests. This is the one place that knows where shared data, golden vectors and the S3 server lie."""

import contextlib
import http.client
import importlib.abc
import json
import os
import random
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SHARED_DATA = Path(os.environ.get("MHIM_SHARED_DATA", ROOT / "../shared/data")).resolve()
GOLDEN_DIR = Path(os.environ.get("MHIM_GOLDEN_DIR", ROOT / "../shared/golden")).resolve()

WITHOUT = tuple(name for name in os.environ.get("MHIM_WITHOUT", "").split(",") if name)
"""Packages made unimportable: `make check` runs the core's tests without Ray and Hydra."""


class _Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        if fullname.split(".")[0] in WITHOUT:
            raise ModuleNotFoundError(f"{fullname} is made unimportable for this test run", name=fullname)


if WITHOUT:
    loaded = [name for name in WITHOUT if name in sys.modules]
    assert not loaded, f"{loaded} were imported before they could be refused"
    sys.meta_path.insert(0, _Refuse())

DURATIONS = Path(__file__).with_name("durations.json")
"""Seconds by file of tests, of those that take one and more; `make durations` measures them anew."""


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that the processes that share the files end together; the order within one stays.

    A test that is `thorough_for` some aggregators is thorough where its aggregator is one of them.
    """
    for item in items:
        marker = item.get_closest_marker("thorough_for")
        if marker and item.callspec.params["aggregator"] in marker.args:  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.thorough)
    seconds = json.loads(DURATIONS.read_text())
    items.sort(key=lambda item: -seconds.get(_file_of(item.nodeid), 0))


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


_measured: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Seconds of the process that ran the test, where they are to be recorded."""
    _measured[_file_of(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With MHIM_RECORD_DURATIONS set, what was measured takes the place of what was recorded of these files."""
    if os.environ.get("MHIM_RECORD_DURATIONS") and "PYTEST_XDIST_WORKER" not in os.environ:
        known = json.loads(DURATIONS.read_text()) | {name: round(value) for name, value in _measured.items()}
        kept = {name: value for name, value in sorted(known.items()) if value and (ROOT / name).is_file()}
        DURATIONS.write_text(json.dumps(kept, indent=2) + "\n")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same numbers whichever tests its process ran before it."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slides, bags and weights; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared data at {SHARED_DATA}; set MHIM_SHARED_DATA to run this test")
    return SHARED_DATA


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Any:
    """A test of tensors runs once on the CPU and once on the GPU; skips the latter where there is none."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine; benchmarks/device.sh runs these tests where there is one")
    return torch.device(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`golden_path` runs a test once per golden vector in the folder (MHIM_GOLDEN_DIR) of the kinds in `vectors`."""
    if "golden_path" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("vectors")
        kinds = marker.args if marker else ("attn", "selfattn", "dsmil")
        paths = sorted(path for path in GOLDEN_DIR.glob("*.npz") if path.name.split("_")[0] in kinds)
        absent = pytest.param(
            None, marks=pytest.mark.skip(reason=f"no golden vectors in {GOLDEN_DIR}; set MHIM_GOLDEN_DIR"), id="absent"
        )
        metafunc.parametrize("golden_path", paths or [absent], ids=lambda path: getattr(path, "stem", None))


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """free_port() → a port that nobody listens at, from below those that the system gives away by itself.

    One of the latter may be taken by any connection of another test before the server that was told of it starts.
    """

    def find() -> int:
        for port in random.Random().sample(range(20_000, 32_000), 100):
            with socket.socket() as free, contextlib.suppress(OSError):
                free.bind(("127.0.0.1", port))
                return port
        raise RuntimeError("no free port was found")

    return find


@pytest.fixture(scope="session")
def s3_server(free_port: Callable[[], int]) -> Iterator[str]:
    """The endpoint of the S3 server in MHIM_TEST_S3_ENDPOINT; else of a moto server, stopped by its process id."""
    if endpoint := os.environ.get("MHIM_TEST_S3_ENDPOINT"):
        yield endpoint
        return
    host, port = "127.0.0.1", free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", host, "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("moto_server did not start")
        yield f"http://{host}:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="session")
def s3_settings(s3_server: str) -> dict[str, str]:
    """The variables of a user of that server. moto asks for no particular keys."""
    return {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": os.environ.get("MHIM_TEST_S3_KEY", "testing"),
        "AWS_SECRET_ACCESS_KEY": os.environ.get("MHIM_TEST_S3_SECRET", "canary-of-a-secret-key"),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@pytest.fixture
def s3_environment(
    s3_settings: dict[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of a user of that server, and no credentials from elsewhere."""
    assert request.node.get_closest_marker("s3"), "tests that need the server are marked `s3`: `make test-s3` runs them"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def make_bucket(s3_settings: dict[str, str]) -> Callable[[], str]:
    """make_bucket() → a fresh bucket's name. Signed by hand: a client of botocore takes a quarter of a second."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    endpoint = s3_settings["AWS_ENDPOINT_URL"]
    credentials = Credentials(s3_settings["AWS_ACCESS_KEY_ID"], s3_settings["AWS_SECRET_ACCESS_KEY"])

    def make() -> str:
        name = f"bucket-{uuid.uuid4().hex}"
        signed = AWSRequest("PUT", f"{endpoint}/{name}")
        S3SigV4Auth(credentials, "s3", s3_settings["AWS_DEFAULT_REGION"]).add_auth(signed)
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        connection.request("PUT", f"/{name}", headers=dict(signed.headers))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        connection.close()
        return name

    return make


@pytest.fixture
def bucket(make_bucket: Callable[[], str], s3_environment: None) -> str:
    """A fresh bucket's name."""
    return make_bucket()
