"""Cohort tables, slides and stores for the flows, and a guard: these commands must settle matters without Ray."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cluster.embedding import EmbedJob, SlideActor, status_of, task_rows
from cluster.session import Resources, kept_alive
from flows.cli import main
from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.embedder import embed_slide
from mhim_core.embed.registry import load_encoder
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideFeatures, SlideReading, SourceHint, SourceIdentity, TileCut
from mhim_core.fingerprint import sha256
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.storage import LocalStorage
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.layout import features_key
from mhim_core.store.manifest import write_manifest
from mhim_core.store.schema import encode_features
from mhim_core.train.context import SingleProcess
from mhim_core.types import SlideId, SlideTask, StatusRow

DIM = 4


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def mhim(capsys: pytest.CaptureFixture[str], no_ray: None) -> Callable[..., Ended]:
    """mhim("train", "cohort=…", …) in this process."""

    def run(*words: str) -> Ended:
        capsys.readouterr()
        code = main(words)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(mhim: Callable[..., Ended]) -> Callable[..., str]:
    """refused("train", …, code=2) → what the command said: no traceback, no bug, nothing unexpected."""

    def run(*words: str, code: int = 2) -> str:
        ended = mhim(*words)
        assert ended.code == code, ended
        assert ended.err.startswith("mhim: ")
        assert "Traceback" not in ended.err
        assert "the traceback is in" not in ended.err
        return ended.err.removeprefix("mhim: ").rstrip("\n")

    return run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Connecting to Ray fails the test; logs go to its folder."""

    def connect(*arguments: object) -> None:
        raise AssertionError(f"Ray was to be started: {arguments}")

    monkeypatch.setattr("cluster.session._connect", connect)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[..., Path]:
    """write_table([{"slide_id": …}, …], name="my.csv") → the file."""

    def write(rows: Sequence[Mapping[str, object]], name: str = "my.csv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def write_slide(tmp_path: Path) -> Callable[..., Path]:
    """write_slide("a.tiff", seed=0, mpp=0.5) → a slide of six tiles of tissue; tissue=False: bare glass."""

    def write(name: str, *, seed: int = 0, mpp: float | None = 0.5, tissue: bool = True) -> Path:
        rng = np.random.default_rng(seed)
        pixels = np.full((1000, 1200, 3), 236 + seed % 16, np.uint8)  # no two seeds give one file
        if tissue:
            texture = rng.integers(-25, 25, (700, 900, 1))
            pixels[150:850, 150:1050] = np.clip(np.array([205, 130, 175]) + texture, 0, 255)
        path = tmp_path / name
        write_pyramid(path, pixels, mpp=None if mpp is None else (mpp, mpp))
        return path

    return write


@pytest.fixture
def cohort_rows() -> Callable[..., list[dict[str, str]]]:
    """cohort_rows(pos=5, neg=5) → rows of slides of as many patients a class; their files need not be there."""

    def rows(**num_patients: int) -> list[dict[str, str]]:
        return [
            {"slide_id": f"{label}{i}", "path": f"{label}{i}.svs", "patient_id": f"p-{label}{i}", "label": label}
            for label, number in num_patients.items()
            for i in range(number)
        ]

    return rows


@pytest.fixture
def made_store(tmp_path: Path) -> Callable[..., str]:
    """made_store(slide_ids, encoder="toy", target_mpp=0.5, empty=()) → `store=` of features made up, committed."""

    def make(
        slide_ids: Sequence[str],
        *,
        encoder: str = "toy",
        target_mpp: float = 0.5,
        empty: Sequence[str] = (),
        twins: Sequence[str] = (),
    ) -> str:
        card = {"id": encoder, "dim": DIM, "licence": "none"}
        tiling = tiling_identity(TileSpec(target_mpp=target_mpp))
        feature_set = FeatureSet(tiling=tiling, encoder=card, encoder_identity=card)
        storage = LocalStorage(tmp_path / "store")
        register(storage, feature_set)
        entries = {}
        for slide_id in slide_ids:
            num_tiles = 0 if slide_id in empty else 3
            features = _features(slide_id, num_tiles, feature_set)
            if slide_id in twins:  # several ids for one file
                features = replace(features, reading=replace(features.reading, source=SourceIdentity(10, "twin")))
            entries[SlideId(slide_id)] = commit(storage, feature_set, features).record
        write_manifest(storage, feature_set, entries)
        return f"store={storage.uri}"

    return make


def _features(slide_id: str, num_tiles: int, feature_set: FeatureSet) -> SlideFeatures:
    rng = np.random.default_rng(list(slide_id.encode()))
    x = np.arange(num_tiles, dtype=np.int32) * 256
    return SlideFeatures(
        slide_id=SlideId(slide_id),
        features=rng.standard_normal((num_tiles, DIM)).astype(np.float16),
        coords_l0_px=np.stack([x, np.zeros_like(x)], axis=1),
        tissue_share=np.ones(num_tiles, np.float32),
        background_share=np.zeros(num_tiles, np.float32),
        reading=SlideReading(
            source=SourceIdentity(10, slide_id),
            hint=SourceHint(f"/slides/{slide_id}.svs", 10, "1"),
            source_sha256="",
            mpp=MppUsed(0.5, 0.5, "slide"),
            effective_mpp=(0.5, 0.5),
            upsample=1.0,
            backend=BACKEND_OF_0_1,
        ),
        cut=TileCut(tiling=feature_set.tiling, tile_size_l0_px=(256, 256), width_l0_px=1024, height_l0_px=256),
        encoder=feature_set.encoder,
    )


@contextlib.contextmanager
def _one_cpu(*_: object) -> Iterator[Resources]:
    """In place of a session of Ray."""
    yield Resources(1, 1.0, 0.0)


def _embed_in_this_process(patch: pytest.MonkeyPatch) -> None:
    def rows(tasks: Sequence[SlideTask], job: EmbedJob, *_: object) -> Iterator[StatusRow]:
        actor = SlideActor(job)
        for row in actor({"task": np.array([row["task"] for row in task_rows(tasks)])}):
            yield status_of({"status": row["status"][0]})
        actor.close()

    patch.setattr("cluster.embedding._node_id", lambda: "here")
    patch.setattr("flows.embed.ray_session", _one_cpu)
    patch.setattr("flows.embed.status_rows", rows)


def _train_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """With as many torch threads as a worker has: a sum's last bits depend on them."""

    def run_workers(work: Any, payload: Any, spec: Any, cluster: Any, scratch: str, on_event: Any, *_: Any) -> Any:
        import torch

        num_threads = torch.get_num_threads()
        torch.set_num_threads(spec.threads_per_worker)
        try:
            return work(payload, SingleProcess(), on_event)
        finally:
            torch.set_num_threads(num_threads)

    patch.setattr("flows.train.ray_session", _one_cpu)
    patch.setattr("cluster.training.run_workers", run_workers)


@pytest.fixture
def embed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mhim embed` with its real actor, called in this process instead of by Ray."""
    _embed_in_this_process(monkeypatch)


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mhim train` with its real work, called in this process instead of on Ray's workers."""
    _train_in_this_process(monkeypatch)


class Painted(NamedTuple):
    """A cohort of small slides, six tiles each; what the label says is plain to see."""

    cohort: Path
    """Twelve slides of as many patients, two classes."""
    new: Path
    """Three more, of other patients."""


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Painted:
    """Never written to by a test: what a test adds goes to a table of its own."""
    folder = tmp_path_factory.mktemp("painted")
    rows = []
    for number in range(15):
        label = ("normal", "tumour")[number % 2]
        rng = np.random.default_rng(number)
        pixels = np.full((1000, 1200, 3), 243, np.uint8)
        colour = np.array([205, 130, 175]) if label == "normal" else np.array([165, 95, 165])
        pixels[150:850, 150:1050] = np.clip(colour + rng.integers(-25, 25, (700, 900, 1)), 0, 255)
        write_pyramid(folder / f"s{number:02d}.tiff", pixels, mpp=(0.5, 0.5))
        patient = f"p{number:02d}"
        rows.append(
            {"slide_id": f"s{number:02d}", "path": f"s{number:02d}.tiff", "patient_id": patient, "label": label}
        )
    for name, members in (("cohort.csv", rows[:12]), ("new.csv", rows[12:])):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["slide_id", "path", "patient_id", "label"])
            writer.writeheader()
            writer.writerows(members)
    return Painted(folder / "cohort.csv", folder / "new.csv")


@pytest.fixture(scope="session")
def clean_features(painted: Painted) -> dict[str, str]:
    """sha256 by key of the twelve slides' feature files, made slide by slide in this process by the core alone."""
    spec, encoder = TileSpec(), load_encoder("hed-texture")
    card = encoder.card
    feature_set = FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())
    with painted.cohort.open(newline="") as file:
        places = [(row["slide_id"], painted.cohort.parent / row["path"]) for row in csv.DictReader(file)]
    digests = {}
    for slide_id, path in places:
        task = SlideTask(SlideId(slide_id), str(path))
        (features,) = embed_slide(task, [encoder], spec=spec, policy=SlidePolicy())
        digest = sha256(encode_features(features))
        digests[features_key(feature_set.fingerprint, task.slide_id, digest)] = digest
    return digests


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One Ray of two CPUs for all commands of a file; started by the first that needs it."""
    with kept_alive():
        yield


@pytest.fixture(scope="session")
def features_of() -> Callable[[Path], dict[str, str]]:
    """features_of(store) → sha256 by key of every feature file: the same wherever and however often it was made."""

    def digests(store: Path) -> dict[str, str]:
        return {
            path.relative_to(store).as_posix(): sha256(path.read_bytes())
            for path in sorted((store / "features").rglob("*.parquet"))
        }

    return digests


@pytest.fixture(scope="session")
def run_mhim() -> Callable[..., Ended]:
    """run_mhim("embed", "cohort=…", …) in this process, for fixtures that outlive a test: Ray is allowed."""

    def run(*words: str) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
        return Ended(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def run_here(run_mhim: Callable[..., Ended]) -> Callable[..., Ended]:
    """As `run_mhim`, but slides are embedded and models trained in this process, without the seconds Ray takes.

    For what a test compares with Ray's results, or goes on from: the work, and its bytes, are the same.
    """

    def run(*words: str) -> Ended:
        with pytest.MonkeyPatch.context() as patch:
            _embed_in_this_process(patch)
            _train_in_this_process(patch)
            return run_mhim(*words)

    return run


@pytest.fixture(scope="session")
def descendants_of() -> Callable[[int], dict[int, str]]:
    """descendants_of(pid) → the command line of every process below it, by process id."""

    def find(root: int) -> dict[int, str]:
        known = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                known[int(folder.name)] = (parent, (folder / "cmdline").read_text().replace("\0", " "))
        titles: dict[int, str] = {}
        level = {root}
        while level:
            level = {pid for pid, (parent, _) in known.items() if parent in level}
            titles |= {pid: known[pid][1] for pid in level}
        return titles

    return find
