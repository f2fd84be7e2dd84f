"""Whatever bytes a reader is given: a clean error or a right result, in bounded time and memory.

First what was found before (tests/corpus/<reader>/), then changes of good files: few here, many by `make fuzz`, which
leaves the smallest bytes that fail in the corpus as `found`, to be given a name and mended.
"""

import gzip
import io
import json
import os
import re
import resource
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flows.scheduling.records import Schedule
from mhim_core.cohort.check import validate
from mhim_core.cohort.labels import read_labels
from mhim_core.cohort.table import read_cohort
from mhim_core.demo.pyramid import write_pyramid
from mhim_core.errors import MhimError
from mhim_core.evaluation.prediction_table import read_lines
from mhim_core.features import MppUsed
from mhim_core.registry.card import RegistryCard
from mhim_core.registry.holdout import Holdout
from mhim_core.registry.promotions import Promotion
from mhim_core.slides.annotations import read_annotation
from mhim_core.slides.file_layout import file_layout
from mhim_core.slides.info import Level, SlideInfo
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.regions import region_masks
from mhim_core.slides.spec import TileSpec
from mhim_core.slides.tiff import check_tiff
from mhim_core.slides.tissue_mask import read_mask
from mhim_core.storage import LocalStorage
from mhim_core.store.attention import decode_attention
from mhim_core.store.manifest import read_manifest
from mhim_core.store.record import CommitRecord
from mhim_core.store.schema import decode_features
from mhim_core.tables import write_parquet
from mhim_core.train.card import weights_digest
from mhim_core.train.model_file import load_model
from mhim_core.train.results import FitResult
from mhim_core.types import SlideId

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests/corpus"
OF_0_1 = ROOT / "tests/fixtures/0.1"
EXAMPLES = int(os.environ.get("MHIM_FUZZ_EXAMPLES", "0"))
"""Of each reader; 0: the few of a test run, the same every time."""
LIMIT_S, LIMIT_BYTES = 5.0, 2 << 30
"""Of one file of a few kilobytes."""
ODD_VALUES: list[Any] = [None, True, -1, 2**63, 10**400, 1e308, "", "\0", "\ud800", "../x", "=cmd()", [], {}, [[]]]
ODD_NUMBERS = [0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


class Reader(NamedTuple):
    """A reader of stored bytes."""

    read: Callable[[bytes, Path], bytes | None]
    """Gives what was read as bytes, which must give the same again; None: it has looked at the result itself."""
    seeds: tuple[bytes, ...]
    is_json: bool = False


def of_0_1(pattern: str) -> tuple[bytes, ...]:
    """At most two files of the store, the runs and the registry that version 0.1 wrote."""
    paths = sorted(OF_0_1.glob(pattern))[:2]
    assert paths, pattern
    return tuple(path.read_bytes() for path in paths)


def read_tiff(data: bytes, folder: Path) -> None:
    path = folder / "slide.tiff"
    path.write_bytes(data)
    check_tiff(path)
    file_layout(path)


def read_stored_manifest(data: bytes, folder: Path) -> None:
    (path,) = sorted(OF_0_1.glob("store/manifests/*/*"))[:1]
    storage, name = LocalStorage(folder), path.parent.name
    storage.put(f"manifests/{name}/{path.name}", data)
    for slide_id, record in read_manifest(storage, name).entries.items():
        assert record.slide_id == slide_id
        assert CommitRecord.from_json(record.to_json(), "again") == record


def read_features(data: bytes, folder: Path) -> None:
    (path,) = sorted(OF_0_1.glob("store/features/*/*/*.parquet"))[:1]
    dim = pq.read_schema(path).field("features").type.list_size
    table = decode_features(data, slide_id=SlideId(path.parent.name), dim=dim)
    assert table.features.shape == (len(table.coords_l0_px), dim)
    assert np.isfinite(table.features).all()


def read_attention(data: bytes, folder: Path) -> None:
    table = decode_attention(data)
    assert table.coords_l0_px.shape == (len(table.attention), 2)


def read_predictions(data: bytes, folder: Path) -> None:
    read_lines(data, pq.read_schema(OF_0_1 / "by-model/predictions.parquet"), "here")


def read_model_file(data: bytes, folder: Path) -> None:
    weights_digest(data)
    load_model(data)


def read_table(data: bytes, folder: Path) -> None:
    cohort = read_cohort(data, name="my.csv", base_uri="/slides")
    validate(cohort)
    for row in cohort.rows:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", row.slide_id)
    read_labels(data, "labels.csv")


SLIDE = SlideInfo(levels=(Level(1000, 800, 1.0),), mpp_x=0.5, mpp_y=0.5, vendor="", objective_power=None)
MPP = MppUsed(0.5, 0.5, "slide")


def read_regions(data: bytes, folder: Path) -> None:
    tissue = TissueMask(is_tissue=np.ones((50, 63), bool), mask_mpp=8.0)
    annotation = read_annotation(data)
    assert len(annotation.digest(None)) == 64
    region_masks(annotation, SLIDE, MPP, tissue, TileSpec(tile_classes=True))


def read_tissue_mask(data: bytes, folder: Path) -> None:
    assert read_mask(data, SLIDE, MPP, (50, 63)).shape == (50, 63)


def annotation_seeds() -> tuple[bytes, ...]:
    ring = [[10, 10], [900, 10.5], [900, 700], [10, 700], [10, 10]]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": kind, "coordinates": [ring] if kind == "Polygon" else [[ring, ring]]},
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        }
        for kind in ("Polygon", "MultiPolygon")
    ]
    return json.dumps(features).encode(), json.dumps({"type": "FeatureCollection", "features": features}).encode()


def asap_seed() -> bytes:
    points = "".join(f'<Coordinate Order="{i}" X="{i * 99}" Y="{i * i * 20}"/>' for i in range(6))
    return (
        '<?xml version="1.0"?><ASAP_Annotations><Annotations><Annotation Name="a" Type="Spline" PartOfGroup="Tumor">'
        f"<Coordinates>{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    ).encode()


def mask_seeds() -> tuple[bytes, ...]:
    picture = Image.fromarray(np.eye(40, 50, dtype=np.uint8))
    made = []
    for form in ("PNG", "TIFF"):
        data = io.BytesIO()
        picture.save(data, form)
        made.append(data.getvalue())
    return tuple(made)


def records(kind: Any, *of: str) -> Callable[[bytes, Path], bytes]:
    return lambda data, folder: kind.from_bytes(data, "here", *of).to_bytes()


def read_card(data: bytes, folder: Path) -> bytes:
    return RegistryCard.from_bytes(data, "here", "paint").to_bytes("paint")


def read_promotion(data: bytes, folder: Path) -> bytes:
    return Promotion.from_bytes(data, "here", 0.0).to_bytes()


def read_commit(data: bytes, folder: Path) -> bytes:
    return CommitRecord.from_json(data, "here").to_json()


def tiff_seeds() -> tuple[bytes, ...]:
    """A slide's pyramid, and the one directory of a BigTIFF."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slide.tiff")
        write_pyramid(path, np.full((300, 400, 3), 200, np.uint8), mpp=(0.5, 0.5))
        small = path.read_bytes()
    tags = ((256, 400), (257, 300), (322, 256), (323, 256), (324, 8), (325, 8))
    entries = b"".join(struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in tags)
    return small, struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags)) + entries + bytes(8)


def table_seeds() -> tuple[bytes, ...]:
    rows = [{"slide_id": f"s{i}", "path": f"s{i}.svs", "patient_id": f"p{i}", "label": "ab"[i % 2]} for i in range(4)]
    csv = (OF_0_1 / "cohort.csv").read_bytes()
    return csv, csv.decode().encode("utf-16"), gzip.compress(csv), write_parquet(rows)


SCHEDULE = Schedule(flow="retrain", words=("name=lung",), cron="0 2 * * 0", timezone="UTC", folder="/work")
READERS = {
    "tiff": Reader(read_tiff, tiff_seeds()),
    "cohort": Reader(read_table, table_seeds()),
    "geojson": Reader(read_regions, annotation_seeds(), is_json=True),
    "asap": Reader(read_regions, (asap_seed(),)),
    "mask": Reader(read_tissue_mask, mask_seeds()),
    "features": Reader(read_features, of_0_1("store/features/*/*/*.parquet")[:1]),
    "manifest": Reader(read_stored_manifest, of_0_1("store/manifests/*/*")[:1]),
    "attention": Reader(read_attention, of_0_1("by-run/attention/*.parquet")[:1]),
    "predictions": Reader(read_predictions, of_0_1("by-model/predictions.parquet")),
    "model": Reader(read_model_file, of_0_1("run/fits/*/*/plain/models/*.safetensors")[:1]),
    "commit": Reader(read_commit, of_0_1("store/commits/*/*/*.json"), is_json=True),
    "promotion": Reader(read_promotion, of_0_1("registry/models/*/promotions/*.json"), is_json=True),
    "card": Reader(read_card, of_0_1("registry/models/*/*/card.json"), is_json=True),
    "holdout": Reader(records(Holdout), of_0_1("registry/holdouts/*/holdout.json"), is_json=True),
    "result": Reader(records(FitResult), of_0_1("run/fits/*/*/*/result.json"), is_json=True),
    "schedule": Reader(records(Schedule), (SCHEDULE.to_bytes(),), is_json=True),
}
ENTRIES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@contextmanager
def bounded() -> Iterator[None]:
    """Memory beyond the limit is refused, and so fails the test; time is looked at afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    (pages, *_) = Path("/proc/self/statm").read_text().split()
    resource.setrlimit(resource.RLIMIT_AS, (int(pages) * resource.getpagesize() + LIMIT_BYTES, hard))
    start_s = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.process_time() - start_s < LIMIT_S


def check(name: str, data: bytes) -> None:
    """A clean error, or a result that reads the same again."""
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder, bounded():
        try:
            result = reader.read(data, Path(folder))
        except MhimError:
            return
        assert result is None or reader.read(result, Path(folder)) == result


def changed_bytes(seed: bytes) -> st.SearchStrategy[bytes]:
    """Some places overwritten, mostly with numbers at the edges of their types; now and then cut short or spliced."""
    number = st.builds(
        lambda value, width, order: (value % 2 ** (8 * width)).to_bytes(width, order),
        st.sampled_from(ODD_NUMBERS),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from(["little", "big"]),
    )
    at = st.one_of(st.integers(0, min(len(seed), 400) - 1), st.integers(0, len(seed) - 1), st.integers(-400, -1))
    edit = st.tuples(at, st.one_of(number, st.binary(min_size=1, max_size=8)), st.booleans())

    def change(edits: list[tuple[int, bytes, bool]], end: int) -> bytes:
        data = bytearray(seed)
        for place, part, is_inserted in edits:
            place %= len(data)
            data[place : place + (0 if is_inserted else len(part))] = part
        return bytes(data[:end])

    end = st.one_of(st.just(len(seed) + 100), st.integers(0, len(seed)))
    return st.builds(change, st.lists(edit, max_size=6), end)


def changed_json(seed: bytes) -> st.SearchStrategy[bytes]:
    """Some values of a record replaced by others, taken out, or nested deep."""
    places = list(walk(json.loads(seed), ()))
    deep = st.integers(50, 3000).map(lambda depth: "[" * depth + "]" * depth)
    values = st.one_of(
        st.sampled_from(ODD_VALUES).map(json.dumps), st.sampled_from(["NaN", "-Infinity", "1e999", "9" * 5000]), deep
    )
    edit = st.tuples(st.sampled_from(places), st.one_of(st.none(), values))

    def change(edits: list[tuple[tuple[Any, ...], str | None]]) -> bytes:
        record, marks = json.loads(seed), {}
        for number, (path, value) in enumerate(edits):
            try:
                *above, last = path
                holder = record
                for step in above:
                    holder = holder[step]
                if value is None:
                    del holder[last]
                else:
                    holder[last] = f"mark-{number}-"
                    marks[f'"mark-{number}-"'] = value
            except (KeyError, IndexError, TypeError):
                continue  # an edit before took the place away
        text = json.dumps(record)
        for mark, value in marks.items():
            text = text.replace(mark, value)
        return text.encode()

    return st.builds(change, st.lists(edit, min_size=1, max_size=3))


def walk(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The places of all values within."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from walk(item, (*path, key))


def changed(reader: Reader) -> st.SearchStrategy[bytes]:
    kinds = [changed_bytes(seed) for seed in reader.seeds]
    if reader.is_json:
        kinds += [changed_json(seed) for seed in reader.seeds] * 3
    return st.one_of(kinds)


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read(name: str, tmp_path: Path) -> None:
    for seed in READERS[name].seeds:
        READERS[name].read(seed, tmp_path)


@pytest.mark.fault(23, 38, 45)
@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_before_is_mended(path: Path) -> None:
    check(path.parent.name, path.read_bytes())


@pytest.mark.fault(23, 45)
@pytest.mark.parametrize("name", READERS)
def test_changed_files_give_a_clean_error_or_a_right_result(name: str) -> None:
    @settings(
        max_examples=EXAMPLES or 40,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changed(READERS[name]))
    def run(data: bytes) -> None:
        try:
            check(name, data)
        except BaseException:
            if EXAMPLES:  # the last that is written is the smallest
                place = CORPUS / name / "found"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            raise

    run()
