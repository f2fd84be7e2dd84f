"""A small run with slides that lie under its features, and the viewer's application over it."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from starlette.testclient import TestClient

from flows.config.view import ViewConfig
from flows.viewing.app import Viewer, ViewerOptions, make_app
from flows.viewing.guard import LOCAL_NAMES
from flows.viewing.opening import open_source
from mhim_core.demo.pyramid import write_pyramid
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideFeatures, SlideReading, SourceHint, SourceIdentity, TileCut
from mhim_core.slides.spec import TileSpec, tiling_identity
from mhim_core.storage import LocalStorage, Storage
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.manifest import write_manifest
from mhim_core.types import SlideId

DIM, TILE, SIZE = 4, 256, (1200, 300)
HOSTILE = "<img src=x onerror=document.title='hacked'>"
TRAINING = ("folds=2", "epochs=3", "embed_dim=8", "patience=0", "learning_rate=0.01", "high_mask_ratio=0.25")


class Viewed(NamedTuple):
    """Where everything is."""

    run: Path
    store: Path
    cohort: Path
    slides: Path


@pytest.fixture(scope="session")
def viewed(tmp_path_factory: pytest.TempPathFactory, run_here: Callable[..., Any]) -> Viewed:
    """Twelve slides of 15 tiles of made-up features, a trained and evaluated run; s11's file is gone. Never written to
    but for annotations."""
    folder = tmp_path_factory.mktemp("viewed")
    card = {"id": "toy", "dim": DIM, "licence": "none"}
    feature_set = FeatureSet(tiling=tiling_identity(TileSpec()), encoder=card, encoder_identity=card)
    storage = LocalStorage(folder / "store")
    register(storage, feature_set)
    rows, entries = [], {}
    for number in range(12):
        slide_id, path = SlideId(f"s{number:02d}"), folder / f"s{number:02d}.tiff"
        rng = np.random.default_rng(number)
        write_pyramid(path, rng.integers(120, 240, (SIZE[1], SIZE[0], 3)).astype(np.uint8), mpp=(0.5, 0.5))
        features = _features(slide_id, path, number, feature_set)
        entries[slide_id] = commit(storage, feature_set, features).record
        label = ("normal", HOSTILE)[number % 2]
        patient = HOSTILE if number == 0 else f"p{number}"
        rows.append({"slide_id": slide_id, "path": path.name, "patient_id": patient, "label": label})
    write_manifest(storage, feature_set, entries)
    cohort = folder / "cohort.csv"
    with cohort.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for words in (
        ("train", f"cohort={cohort}", f"store={folder / 'store'}", f"out={folder / 'run'}", *TRAINING),
        ("evaluate", f"run={folder / 'run'}", "bootstrap_replicates=0"),
    ):
        ended = run_here(*words)
        assert ended.code == 0, ended
    (folder / "s11.tiff").unlink()
    return Viewed(folder / "run", folder / "store", cohort, folder)


def _features(slide_id: SlideId, path: Path, number: int, feature_set: FeatureSet) -> SlideFeatures:
    rng = np.random.default_rng(number)
    x, y = np.meshgrid(np.arange(5) * 200, np.arange(3) * 20)
    coords = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int32)
    values = rng.standard_normal((len(coords), DIM)) + number % 2
    return SlideFeatures(
        slide_id=slide_id,
        features=values.astype(np.float16),
        coords_l0_px=coords,
        tissue_share=np.ones(len(coords), np.float32),
        background_share=np.zeros(len(coords), np.float32),
        reading=SlideReading(
            source=SourceIdentity(10, str(slide_id)),
            hint=SourceHint(str(path), 10, "1"),
            source_sha256="",
            mpp=MppUsed(0.5, 0.5, "slide"),
            effective_mpp=(0.5, 0.5),
            upsample=1.0,
            backend=BACKEND_OF_0_1,
        ),
        cut=TileCut(tiling=feature_set.tiling, tile_size_l0_px=(TILE, TILE), width_l0_px=SIZE[0], height_l0_px=SIZE[1]),
        encoder=feature_set.encoder,
    )


@pytest.fixture
def client_of(viewed: Viewed) -> Callable[..., TestClient]:
    """client_of(run=…, read_only=True, token="…") → a browser's questions to that viewer, without a server."""

    def client(
        annotations: Path | None = None,
        place: Storage | None = None,
        names: tuple[str, ...] | None = LOCAL_NAMES,
        within_s: float = 20.0,
        **keys: Any,
    ) -> TestClient:
        config = ViewConfig(**({"run": str(viewed.run)} | keys if "store" not in keys else keys))
        place = place if annotations is None else LocalStorage(annotations)
        source = open_source(config)
        options = ViewerOptions(config.read_only, config.token, names, within_s)
        app = make_app(Viewer(source, place, options))
        return TestClient(app, base_url="http://127.0.0.1:8765", headers={"x-mhim-view": "1"})

    return client


@pytest.fixture
def client(client_of: Callable[..., TestClient], tmp_path: Path) -> TestClient:
    """Of the run, with annotations in a folder of the test's own."""
    return client_of(annotations=tmp_path / "annotations")
