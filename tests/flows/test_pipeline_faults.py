"""Processes ended by a signal at the worst time: the next run, or this one, ends as if nothing had happened."""

import contextlib
import csv
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.usefixtures("one_ray")]


Descendants = Callable[[int], dict[int, str]]
HOW = [signal.SIGKILL, signal.SIGTERM]
"""How a driver is ended."""
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They wait a minute for a head that is gone; all else must end with its driver, or it could still commit."""


def wait_until(condition: Callable[[], Any], limit_s: float = 300.0) -> Any:
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s:g} s")


def assert_ended_well(driver: subprocess.Popen[bytes], sent_s: float, said: str) -> None:
    """The driver was told to stop at `sent_s` and did so within the 30 s that Kubernetes gives, in a sentence."""
    assert driver.returncode == 143, said
    assert time.monotonic() - sent_s < 30
    assert said.splitlines()[-1].startswith("mhim: ended by SIGTERM; what was committed is kept; run the same command")
    assert "Traceback" not in said
    assert "***" not in said, "the abort trace of Ray's core"


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.fixture
def killed_when(tmp_path: Path, descendants_of: Descendants) -> Callable[..., None]:
    """killed_when(condition, "embed", …): that command in a process of its own, whose driver is killed.

    `and_all_below`: as if the machine went down; else what its driver left must end by itself. `kind`: SIGTERM, after
    which the driver must end by itself, in order.
    """

    def run(
        condition: Callable[[], Any],
        *words: str,
        and_all_below: bool = False,
        kind: signal.Signals = signal.SIGKILL,
    ) -> None:
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
        with (tmp_path / "said").open("w+") as said:
            driver = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *words], stdout=said, stderr=said, env=environment
            )
            below: dict[int, str] = {}
            try:
                wait_until(lambda: condition() or driver.poll() is not None)
                below = descendants_of(driver.pid)
                assert driver.poll() is None, (tmp_path / "said").read_text()
            finally:
                for pid in (driver.pid, *(below if and_all_below else ())):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, kind)
                sent_s = time.monotonic()
                driver.wait()
                if kind is signal.SIGTERM:
                    assert_ended_well(driver, sent_s, (tmp_path / "said").read_text())
                working = [pid for pid, title in below.items() if not title.startswith(RAY_AGENTS)]
                wait_until(lambda: not any(is_running(pid) for pid in working), limit_s=200)
                for pid in below:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    return run


@pytest.fixture
def killing(descendants_of: Descendants) -> Callable[..., Any]:
    """`with killing(name, condition)`: the first process of our own Ray whose title holds `name`, when it holds."""

    @contextlib.contextmanager
    def kill_one(name: str, condition: Callable[[], Any]) -> Iterator[list[int]]:
        killed: list[int] = []

        def work() -> None:
            wait_until(condition)
            found = wait_until(lambda: [pid for pid, title in descendants_of(os.getpid()).items() if name in title])
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield killed
        finally:
            thread.join()

    return kill_one


def commits(store: Path) -> list[Path]:
    return list(store.glob("commits/*/*/*.json"))


def results(run: Path) -> dict[str, bytes]:
    """Every file of the fits but those whose writer was killed before it gave them their name."""
    files = [path for path in run.glob("fits/**/*") if path.is_file() and not path.name.startswith(".tmp-")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def without(features: dict[str, str], *slide_ids: str) -> dict[str, str]:
    return {key: sha for key, sha in features.items() if not any(slide_id in key for slide_id in slide_ids)}


def failures(store: Path) -> dict[str, tuple[str, str, str]]:
    """Reason, type and attempts of every slide that failed in the only run of a store."""
    (report,) = store.glob("reports/*/failed.csv")
    with report.open(newline="") as file:
        return {row["slide_id"]: (row["reason"], row["error_type"], row["attempts"]) for row in csv.DictReader(file)}


@pytest.fixture
def embedding(painted: Any, tmp_path: Path) -> tuple[str, ...]:
    return ("embed", f"cohort={painted.cohort}", "encoder=hed-texture", f"store={tmp_path / 'store'}", "local_cpus=2")


@pytest.fixture(scope="module")
def store(painted: Any, tmp_path_factory: pytest.TempPathFactory, run_here: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "store"
    said = run_here("embed", f"cohort={painted.cohort}", "encoder=hed-texture", f"store={folder}", "local_cpus=2")
    assert said.code == 0, said
    return folder


@pytest.fixture(scope="module")
def training(painted: Any, store: Path) -> tuple[str, ...]:
    """Long enough to be killed amid it, and saved after every epoch."""
    kind = ("folds=2", "epochs=60", "patience=0", "embed_dim=16", "checkpoint_every=1", "local_cpus=2")
    return ("train", f"cohort={painted.cohort}", f"store={store}", *kind)


@pytest.fixture(scope="module")
def uninterrupted(training: tuple[str, ...], store: Path, run_here: Callable[..., Any]) -> dict[str, bytes]:
    out = store.parent / "uninterrupted"
    said = run_here(*training, f"out={out}")
    assert said.code == 0, said
    return results(out)


@pytest.mark.fault(5, 50)
@pytest.mark.parametrize("kind", HOW, ids=str)
def test_an_embedding_killed_half_way_goes_on_with_what_was_not_committed(
    embedding: tuple[str, ...],
    tmp_path: Path,
    killed_when: Callable[..., None],
    run_here: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
    kind: signal.Signals,
) -> None:
    store = tmp_path / "store"
    killed_when(lambda: len(commits(store)) >= 2, *embedding, kind=kind)
    before = {path: path.stat().st_mtime_ns for path in commits(store)}
    assert 2 <= len(before) < 12
    said = run_here(*embedding)
    assert said.code == 0, said
    assert f"12 slides: {12 - len(before)} ok, 0 empty, 0 failed, {len(before)} skipped" in said.out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert features_of(store) == clean_features
    assert len(commits(store)) == 12


@pytest.mark.fault(1, 2)
def test_a_decoder_and_then_an_actor_killed_amid_a_slide_change_nothing(
    embedding: tuple[str, ...],
    tmp_path: Path,
    killing: Callable[..., Any],
    run_mhim: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
) -> None:
    store = tmp_path / "store"
    with (
        killing("multiprocessing.spawn", lambda: commits(store)) as decoders,
        killing("SlideActor", lambda: decoders and len(commits(store)) >= 3) as actors,
    ):
        said = run_mhim(*embedding)
    assert decoders
    assert actors
    assert said.code == 0, said
    assert features_of(store) == clean_features
    assert len(commits(store)) == 12


def test_an_encoder_that_an_actor_cannot_load_ends_the_run_with_a_sentence(
    embedding: tuple[str, ...], run_mhim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import embed

    make_card = embed.encoder_card
    monkeypatch.setattr(
        "flows.embed.encoder_card",
        lambda *words, **more: dataclasses.replace(make_card(*words, **more), network={"algorithm": "other"}),
    )
    said = run_mhim(*embedding)
    assert said.code == 2, said
    assert "mhim: encoder hed-texture: the card says {'algorithm': 'other'}" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(("taken", "code"), [(("features",), 4), (("features", "probe"), 6)])
def test_a_store_that_stopped_taking_features_ends_the_run_and_one_that_refuses_a_slide_does_not(
    embedding: tuple[str, ...], tmp_path: Path, run_here: Callable[..., Any], taken: tuple[str, ...], code: int
) -> None:
    (tmp_path / "store").mkdir()
    for name in taken:
        (tmp_path / "store" / name).write_text("a file where a folder belongs")
    said = run_here(*embedding)
    assert said.code == code, said
    assert ("12 failed (storage 12)" in said.out) == (code == 4)
    assert ("the store stopped taking writes" in said.err) == (code == 6)


@pytest.mark.fault(31, 50)
@pytest.mark.parametrize("kind", HOW, ids=str)
def test_a_training_killed_half_way_resumes_and_ends_in_the_same_models(
    training: tuple[str, ...],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    killed_when: Callable[..., None],
    run_here: Callable[..., Any],
    kind: signal.Signals,
) -> None:
    out = tmp_path / "run"
    half_way = out / "fits/seed-2021/fold-0/mhim/attempts"
    killed_when(
        lambda: list(half_way.glob("*/epoch-0005.json")),
        *training,
        f"out={out}",
        and_all_below=kind is signal.SIGKILL,
        kind=kind,
    )
    assert not (out / "fits/seed-2021/fold-0/mhim/result.json").exists()
    said = run_here(*training, f"out={out}")
    assert said.code == 0, said
    assert "seed-2021/fold-0/plain: adopted" in said.err
    resumed = re.search(r"^seed-2021/fold-0/mhim: resumed: after epoch (\d+)$", said.err, re.MULTILINE)
    assert resumed, said.err
    assert 5 <= int(resumed[1]) < 60
    assert results(out) == uninterrupted


@pytest.mark.fault(31)
def test_a_worker_killed_amid_training_is_replaced_and_the_models_are_the_same(
    training: tuple[str, ...],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    killing: Callable[..., Any],
    run_mhim: Callable[..., Any],
) -> None:
    out = tmp_path / "run"
    fifth_epoch = "fits/seed-2021/fold-0/mhim/attempts/*/epoch-0005.json"
    with killing("RayTrainWorker", lambda: list(out.glob(fifth_epoch))) as killed:
        said = run_mhim(*training, f"out={out}")
    assert killed
    assert said.code == 0, said
    assert "seed-2021/fold-0/mhim: resumed" in said.err
    assert results(out) == uninterrupted


def with_faults(faults: dict[str, str], births: Path) -> type:
    """A SlideActor whose encoder meets faults at certain slides, each time; a byte in `births` for every start."""
    from cluster.embedding import SlideActor

    class Faulty(SlideActor):  # local, so that it travels as a whole
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            with births.open("a") as file:
                file.write("x")
            inner = self._encoder

            def encode(batches: Any, facts: Any) -> Any:
                fault = faults.get(facts.slide_id)
                if fault == "exit":
                    sys.exit(0)
                elif fault:
                    os.kill(os.getpid(), {"die": signal.SIGKILL, "stand still": signal.SIGSTOP}[fault])
                return inner(batches, facts)

            self._encoder = encode

    return Faulty


def with_faulty_decoder(births: Path) -> type:
    """A SlideActor whose decoder is `faulty_decoders.decode_with_faults`; a byte in `births` for every start."""
    from cluster.embedding import SlideActor

    folder = str(Path(__file__).parent)

    class Faulty(SlideActor):
        def __init__(self, *arguments: Any) -> None:
            sys.path.insert(0, folder)  # the decoder's child takes it over
            from faulty_decoders import decode_with_faults

            super().__init__(*arguments)
            self._decoder.close()
            self._decoder._decode = partial(decode_with_faults, **self._decoder._decode.keywords)
            with births.open("a") as file:
                file.write("x")

    return Faulty


@pytest.mark.fault(3, 4)
def test_decoders_that_crash_or_hang_at_a_slide_each_time_cost_that_slide_and_no_encoder(
    embedding: tuple[str, ...],
    tmp_path: Path,
    run_mhim: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, births = tmp_path / "store", tmp_path / "births"
    monkeypatch.setattr("cluster.embedding.SlideActor", with_faulty_decoder(births))
    said = run_mhim(*embedding, "decode_timeout_s=6", "max_failed_fraction=0.2")
    assert said.code == 3, said
    assert failures(store) == {"s02": ("timeout", "SlideError", "1"), "s07": ("decoder_crash", "SlideError", "2")}
    assert births.read_text() == "xx", "the encoders were never started again"
    assert features_of(store) == without(clean_features, "s02", "s07")


@pytest.mark.fault(1, 43)
def test_encoders_that_exit_die_or_stand_still_cost_the_slide_at_fault_alone(
    embedding: tuple[str, ...],
    tmp_path: Path,
    run_mhim: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = {"s03": "exit", "s05": "die", "s08": "stand still"}
    store, births = tmp_path / "store", tmp_path / "births"
    monkeypatch.setattr("cluster.embedding.SlideActor", with_faults(faults, births))
    started_s = time.monotonic()
    said = run_mhim(*embedding, "encode_timeout_s=5", "max_failed_fraction=0.25")
    assert said.code == 3, said
    assert time.monotonic() - started_s < 120
    assert failures(store) == {
        "s03": ("bad_features", "SystemExit", "1"),
        "s05": ("decoder_crash", "EncoderDied", "2"),
        "s08": ("timeout", "EncoderStandsStill", "2"),
    }
    assert len(births.read_text()) == 2 + 4, "two at first, and one for each death"
    assert features_of(store) == {
        key: sha for key, sha in clean_features.items() if not any(one in key for one in faults)
    }
    assert len(commits(store)) == 9
    assert said.err.count("stood still") >= 2


@pytest.mark.fault(44)
@pytest.mark.parametrize("program", ["raylet/raylet ", "gcs/gcs_server "])
def test_the_loss_of_ray_s_own_process_ends_the_run_and_no_slide_is_blamed(
    embedding: tuple[str, ...],
    tmp_path: Path,
    descendants_of: Descendants,
    run_here: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
    program: str,
) -> None:
    store, words = tmp_path / "store", (*embedding[:-1], "local_cpus=1", "slides_per_call=1")
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
    with (tmp_path / "said").open("w+") as said:
        driver = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words], stdout=said, stderr=said, env=environment
        )
        try:
            wait_until(lambda: commits(store) or driver.poll() is not None)
            (lost,) = (pid for pid, title in descendants_of(driver.pid).items() if program in title)
            os.kill(lost, signal.SIGKILL)
            code = driver.wait(timeout=120)
        finally:
            driver.kill()
            driver.wait()
    assert code == 6, (tmp_path / "said").read_text()
    assert not list(store.glob("attempts/**/*.json"))
    assert 1 <= len(commits(store)) < 12
    assert run_here(*embedding).code == 0
    assert features_of(store) == clean_features
