from pathlib import Path

import numpy as np
import pytest
import torch

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.decode import decode_slide
from mhim_core.embed.embedder import embed_slide
from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.facts import PlanFacts
from mhim_core.errors import SlideError
from mhim_core.features import SourceHint
from mhim_core.slides.reader import TileBatch
from mhim_core.slides.source_identity import file_sha256
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.types import FailureReason, SlideId, SlideTask

SPEC = TileSpec(target_mpp=0.5, tile_px=256)


@pytest.mark.parametrize("backend", ["direct", "openslide"])
def test_a_slide_that_is_written_to_while_it_is_read_is_void(tmp_path: Path, backend: str) -> None:
    pixels = np.random.default_rng(0).integers(90, 200, (1024, 1024, 3), dtype=np.uint8)
    path, hint = tmp_path / "a.tiff", SourceHint("a", 1, "1")
    write_pyramid(path, pixels, mpp=(0.5, 0.5))
    spec, task = TileSpec(min_tissue=0, backend=backend), SlideTask(SlideId("a"), str(path))
    items = decode_slide(path, task, hint, spec=spec, policy=SlidePolicy())
    facts, first = next(items), next(items)
    assert isinstance(facts, PlanFacts)
    assert len(facts.coords_l0_px) == len(first.index) == 16
    write_pyramid(path, 255 - pixels, mpp=(0.5, 0.5))
    with pytest.raises(SlideError, match="changed while it was read") as caught:
        next(items)
    assert caught.value.reason is FailureReason.READ


@pytest.fixture(scope="module")
def task(shared_data: Path) -> SlideTask:
    return SlideTask(SlideId("cmu-1"), str(shared_data / "slides" / "CMU-1-Small-Region.svs"))


def test_a_real_slide_becomes_features_of_its_tissue(task: SlideTask, hed_texture: TileEncoder) -> None:
    (embedded,) = embed_slide(task, [hed_texture], spec=SPEC, policy=SlidePolicy())
    num_tiles = len(embedded.features)
    assert 20 < num_tiles <= 9 * 12
    assert embedded.features.shape == (num_tiles, hed_texture.card.dim)
    assert embedded.coords_l0_px.shape == (num_tiles, 2)
    assert np.all(embedded.tissue_share >= SPEC.min_tissue)
    assert embedded.reading.mpp.source == "slide"
    assert embedded.reading.effective_mpp == pytest.approx((0.5, 0.5), rel=0.01)
    assert (embedded.cut.width_l0_px, embedded.cut.height_l0_px) == (2220, 2967)
    assert embedded.cut.tiling == tiling_identity(SPEC)
    assert embedded.reading.hint.uri == task.uri
    assert embedded.reading.source_sha256 == ""


def test_tiles_over_the_slide_s_edge_tell_how_much_of_them_is_missing(
    task: SlideTask, hed_texture: TileEncoder
) -> None:
    (embedded,) = embed_slide(task, [hed_texture], spec=TileSpec(min_tissue=0), policy=SlidePolicy())
    tile_xy = np.array(embedded.cut.tile_size_l0_px)
    held = np.clip((np.array([2220, 2967]) - embedded.coords_l0_px) / tile_xy, 0, 1).prod(axis=1)
    assert embedded.background_share.max() > 0.1
    assert np.abs(embedded.background_share - (1 - held)).max() < 0.01


def test_a_staged_copy_is_the_same_source_at_the_tasks_own_address(
    task: SlideTask, hed_texture: TileEncoder, tmp_path: Path
) -> None:
    copy = tmp_path / "staged.svs"
    copy.write_bytes(Path(task.uri).read_bytes())
    remote = task._replace(uri="s3://bucket/cmu-1.svs")
    (first,) = embed_slide(task, [hed_texture], spec=SPEC, policy=SlidePolicy())
    (second,) = embed_slide(remote, [hed_texture], spec=SPEC, policy=SlidePolicy(), path=copy)
    assert second.features.tobytes() == first.features.tobytes()
    assert second.reading.source == first.reading.source
    assert second.reading.hint.uri == remote.uri


def test_a_slide_that_is_not_there_fails_alone(hed_texture: TileEncoder, tmp_path: Path) -> None:
    missing = SlideTask(SlideId("gone"), str(tmp_path / "gone.svs"))
    with pytest.raises(SlideError) as caught:
        embed_slide(missing, [hed_texture], spec=SPEC, policy=SlidePolicy())
    assert caught.value.reason is FailureReason.NOT_FOUND


def test_a_verified_sha256_travels_with_the_features(task: SlideTask, hed_texture: TileEncoder) -> None:
    digest = file_sha256(task.uri)
    named = task._replace(sha256=digest.upper())
    (embedded,) = embed_slide(named, [hed_texture], spec=SPEC, policy=SlidePolicy())
    facts = next(decode_slide(Path(task.uri), named, embedded.reading.hint, spec=SPEC, policy=SlidePolicy()))
    assert isinstance(facts, PlanFacts)
    assert embedded.reading.source_sha256 == facts.reading.source_sha256 == digest


def test_another_file_than_the_cohort_names_is_refused(task: SlideTask, hed_texture: TileEncoder) -> None:
    with pytest.raises(SlideError) as caught:
        embed_slide(task._replace(sha256="0" * 64), [hed_texture], spec=SPEC, policy=SlidePolicy())
    assert caught.value.reason is FailureReason.SOURCE_HASH_MISMATCH


def test_features_are_those_of_the_encoder_alone(task: SlideTask, hed_texture: TileEncoder) -> None:
    from mhim_core.slides.prepare import prepare_slide

    (embedded,) = embed_slide(task, [hed_texture], spec=SPEC, policy=SlidePolicy())
    with prepare_slide(task.uri, spec=SPEC, policy=SlidePolicy()) as prepared:
        tiles = np.concatenate([batch.tiles for batch in prepared.reader.tiles(prepared.plan)])
    last = hed_texture(torch.from_numpy(tiles[-1:])).numpy().astype(np.float16)
    assert np.array_equal(embedded.features[-1:], last)


def test_a_batch_of_large_tiles_has_as_many_as_take_few_megabytes(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", np.full((2048, 3072, 3), 243, np.uint8), mpp=(0.5, 0.5))
    task, hint = SlideTask(SlideId("a"), str(tmp_path / "a.tiff")), SourceHint("a", 1, "1")

    def sizes(tile_px: int) -> list[int]:
        spec = TileSpec(tile_px=tile_px, min_tissue=0)
        _, *batches = decode_slide(tmp_path / "a.tiff", task, hint, spec=spec, policy=SlidePolicy())
        assert all(isinstance(batch, TileBatch) and batch.tiles.nbytes <= 8 * 2**20 for batch in batches)
        return [len(batch.tiles) for batch in batches if isinstance(batch, TileBatch)]

    assert sizes(1024) == [2, 2, 2]
    assert sizes(256) == [32, 32, 32]
