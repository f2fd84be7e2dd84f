"""Decoders, encoders and Ray's own processes that end or stand still: which slides that costs, and which not."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.usefixtures("one_ray")]

Descendants = Callable[[int], dict[int, str]]


def commits(store: Path) -> list[Path]:
    return list(store.glob("commits/*/*/*.json"))


def without(features: dict[str, str], *slide_ids: str) -> dict[str, str]:
    return {key: sha for key, sha in features.items() if not any(slide_id in key for slide_id in slide_ids)}


def failures(store: Path) -> dict[str, tuple[str, str, str]]:
    """Reason, type and attempts of every slide that failed in the only run of a store."""
    (report,) = store.glob("reports/*/failed.csv")
    with report.open(newline="") as file:
        return {row["slide_id"]: (row["reason"], row["error_type"], row["attempts"]) for row in csv.DictReader(file)}


def with_faults(faults: dict[str, str], births: Path) -> type:
    """A SlideActor whose encoder meets faults at certain slides, each time; a byte in `births` for every start."""
    from cluster.embedding import SlideActor

    class Faulty(SlideActor):  # local, so that it travels as a whole
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            with births.open("a") as file:
                file.write("x")
            inner = self._encoder.each

            def encode(batches: Any, facts: Any) -> Any:
                fault = faults.get(facts.slide_id)
                if fault == "exit":
                    sys.exit(0)
                elif fault:
                    os.kill(os.getpid(), {"die": signal.SIGKILL, "stand still": signal.SIGSTOP}[fault])
                return inner(batches, facts)

            self._encoder.each = encode

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
            for child in self._decoder._children:
                child._decode = partial(decode_with_faults, **child._decode.keywords)
            with births.open("a") as file:
                file.write("x")

    return Faulty


@pytest.mark.thorough
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
    ended = run_mhim(*embedding, "decode_timeout_s=6", "max_failed_fraction=0.2")
    assert ended.code == 3, ended
    assert failures(store) == {"s02": ("timeout", "SlideError", "1"), "s07": ("decoder_crash", "SlideError", "2")}
    assert births.read_text() == "xx", "the encoders were never started again"
    assert features_of(store) == without(clean_features, "s02", "s07")


@pytest.mark.thorough
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
    ended = run_mhim(*embedding, "encode_timeout_s=5", "max_failed_fraction=0.25")
    assert ended.code == 3, ended
    assert failures(store) == {
        "s03": ("bad_features", "SystemExit", "1"),
        "s05": ("decoder_crash", "EncoderDied", "2"),
        "s08": ("timeout", "EncoderStandsStill", "2"),
    }
    assert len(births.read_text()) == 2 + 4, "two at first, and one for each death"
    assert features_of(store) == {
        key: sha for key, sha in clean_features.items() if not any(fault in key for fault in faults)
    }
    assert len(commits(store)) == 9
    assert ended.err.count("stood still at slide s08 for longer than encode_timeout_s=5 ") == 2
    for slide_id in faults:
        lines = [line for line in (ended.out + ended.err).splitlines() if line.strip().startswith(f"{slide_id}: ")]
        assert len(lines) == 1, "a failed slide is told once"
    assert "raylet" not in ended.out + ended.err, "Ray's own words about its actors are none for the terminal"


@pytest.mark.fault(44)
@pytest.mark.parametrize("program", ["raylet/raylet ", pytest.param("gcs/gcs_server ", marks=pytest.mark.thorough)])
def test_the_loss_of_ray_s_own_process_ends_the_run_and_no_slide_is_blamed(
    embedding: tuple[str, ...],
    tmp_path: Path,
    descendants_of: Descendants,
    run_here: Callable[..., Any],
    features_of: Callable[[Path], dict[str, str]],
    clean_features: dict[str, str],
    waiting: Callable[..., Any],
    program: str,
) -> None:
    store, words = tmp_path / "store", (*embedding[:-1], "local_cpus=1", "slides_per_call=1")
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
    with (tmp_path / "output").open("w+") as output:
        driver = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words], stdout=output, stderr=output, env=environment
        )
        try:
            waiting(lambda: commits(store) or driver.poll() is not None)
            (lost,) = (pid for pid, title in descendants_of(driver.pid).items() if program in title)
            os.kill(lost, signal.SIGKILL)
            code = driver.wait(timeout=120)
        finally:
            driver.kill()
            driver.wait()
    assert code == 6, (tmp_path / "output").read_text()
    assert not list(store.glob("attempts/**/*.json"))
    assert 1 <= len(commits(store)) < 12
    assert run_here(*embedding).code == 0
    assert features_of(store) == clean_features
