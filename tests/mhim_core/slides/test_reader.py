import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed
from mhim_core.slides import backend as backend_module
from mhim_core.slides.grid import TilePlan, plan_tiles
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.reader import SlideReader, open_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import FailureReason

Write = Callable[..., Path]
HALF = MppUsed(0.5, 0.5, "slide")


def plan_everything(reader: SlideReader, spec: TileSpec | None = None, mpp: MppUsed = HALF) -> TilePlan:
    nothing = TissueMask(is_tissue=np.zeros((1, 1), bool), mask_mpp=8.0)
    return plan_tiles(reader.info(), mpp, spec or TileSpec(min_tissue=0), SlidePolicy(), nothing)


def tile_table(path: Path) -> tuple[int, int]:
    """Places of level 0's tile offsets and byte counts in a file of `write_pyramid`."""
    data = path.read_bytes()
    (num_fields,) = struct.unpack_from("<H", data, 8)
    fields = {}
    for i in range(num_fields):
        tag, _, count, value = struct.unpack_from("<HHII", data, 10 + 12 * i)
        fields[tag] = value if count > 1 else 10 + 12 * i + 8  # one value lies in the entry itself
    return fields[324], fields[325]


def break_tile(path: Path, index: int) -> None:
    """Overwrite one stored tile of level 0 with zeros."""
    offsets, sizes = tile_table(path)
    data = bytearray(path.read_bytes())
    (offset,) = struct.unpack_from("<I", data, offsets + 4 * index)
    (size,) = struct.unpack_from("<I", data, sizes + 4 * index)
    data[offset : offset + size] = b"\0" * size
    path.write_bytes(data)


def test_the_facts_are_as_the_file_states_them(write_slide: Write, simple: np.ndarray) -> None:
    with open_slide(write_slide(simple, mpp=(0.25, 0.253))) as reader:
        info = reader.info()
    assert (info.width_l0_px, info.height_l0_px) == (1500, 1100)
    assert [level.downsample for level in info.levels] == [1.0, 4.0]
    assert (info.mpp_x, info.mpp_y) == (pytest.approx(0.25), pytest.approx(0.253))
    assert info.vendor == "generic-tiff"


def test_a_file_without_resolution_states_none(write_slide: Write, simple: np.ndarray) -> None:
    with open_slide(write_slide(simple, mpp=None)) as reader:
        assert reader.info().mpp_x is None


def test_aligned_tiles_are_the_stored_pixels(write_slide: Write, simple: np.ndarray) -> None:
    with open_slide(write_slide(simple, quality=95)) as reader:
        plan = plan_everything(reader)
        tiles = np.concatenate([batch.tiles for batch in reader.tiles(plan, batch_size=7)])
    for (x, y), tile in zip(plan.coords_l0_px, tiles, strict=True):
        original = simple[y : y + 256, x : x + 256]
        inside = tile[: original.shape[0], : original.shape[1]].astype(int)
        assert np.abs(inside - original).mean() < 6


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_carry_the_plan_in_order_whatever_their_size(
    write_slide: Write, simple: np.ndarray, batch_size: int
) -> None:
    with open_slide(write_slide(simple)) as reader:
        plan = plan_everything(reader)
        batches = list(reader.tiles(plan, batch_size))
        again = list(reader.tiles(plan, 16))
    assert np.concatenate([batch.index for batch in batches]).tolist() == list(range(len(plan)))
    assert np.array_equal(
        np.concatenate([batch.tiles for batch in batches]), np.concatenate([batch.tiles for batch in again])
    )
    assert batches[0].tiles.dtype == np.uint8
    assert max(len(batch.index) for batch in batches) <= batch_size


@pytest.mark.fault(24)
def test_what_lies_over_the_edge_is_white_and_counted(write_slide: Write) -> None:
    with open_slide(write_slide(np.full((256, 320, 3), 90, np.uint8))) as reader:
        (batch,) = reader.tiles(plan_everything(reader))
    assert batch.background_share.tolist() == [0.0, 0.75]
    assert (batch.tiles[1, :, 64:] == 255).all()
    assert np.abs(batch.tiles[1, :, :64].astype(int) - 90).max() < 10


@pytest.mark.fault(24)
def test_a_tile_the_scanner_left_out_is_white_and_counted(write_slide: Write) -> None:
    path = write_slide(np.full((256, 512, 3), 90, np.uint8), downsamples=(1,))
    _, sizes = tile_table(path)
    data = bytearray(path.read_bytes())
    data[sizes + 4 : sizes + 8] = b"\0\0\0\0"
    path.write_bytes(data)
    with open_slide(path) as reader:
        (batch,) = reader.tiles(plan_everything(reader))
    assert batch.background_share.tolist() == [0.0, 1.0]
    assert (batch.tiles[1] == 255).all()


def test_a_tile_is_resized_to_exactly_its_size_at_the_target(write_slide: Write, simple: np.ndarray) -> None:
    mpp = MppUsed(0.32, 0.32, "override")
    with open_slide(write_slide(simple)) as reader:
        plan = plan_everything(reader, TileSpec(tile_px=224, min_tissue=0), mpp)
        (batch,) = reader.tiles(plan)
    assert plan.read_px == (350, 350)
    assert batch.tiles.shape == (len(plan), 224, 224, 3)


@pytest.mark.fault(18)
def test_one_corrupt_tile_is_recorded_and_the_others_are_untouched(write_slide: Write, painted: np.ndarray) -> None:
    path = write_slide(painted)
    with open_slide(path) as reader:
        plan = plan_everything(reader)
        good = np.concatenate([batch.tiles for batch in reader.tiles(plan)])
    break_tile(path, 31)
    with open_slide(path) as reader:
        batches = list(reader.tiles(plan))
        assert reader.bad_tiles == [31]
    index = np.concatenate([batch.index for batch in batches])
    assert index.tolist() == [i for i in range(len(plan)) if i != 31]
    assert np.array_equal(np.concatenate([batch.tiles for batch in batches]), good[index])


@pytest.mark.fault(18)
def test_more_than_five_percent_unreadable_fails_the_slide(write_slide: Write, simple: np.ndarray) -> None:
    path = write_slide(simple)
    break_tile(path, 3)
    with open_slide(path) as reader:
        assert len(plan_everything(reader)) == 30
        list(reader.tiles(plan_everything(reader)))  # one is always forgiven
    break_tile(path, 20)
    with open_slide(path) as reader, pytest.raises(SlideError, match="2 of 30") as failure:
        list(reader.tiles(plan_everything(reader)))
    assert failure.value.reason is FailureReason.READ


def test_a_slide_whose_only_tile_is_unreadable_fails(write_slide: Write) -> None:
    path = write_slide(np.full((256, 256, 3), 90, np.uint8))
    break_tile(path, 0)
    with open_slide(path) as reader, pytest.raises(SlideError) as failure:
        list(reader.tiles(plan_everything(reader)))
    assert failure.value.reason is FailureReason.READ


def test_a_thumbnail_has_the_asked_resolution_and_no_seams(write_slide: Write, painted: np.ndarray) -> None:
    with open_slide(write_slide(painted, downsamples=(1,))) as reader:
        thumbnail = reader.thumbnail(HALF, 8.0)
    rows, columns = painted.shape[0] // 16, painted.shape[1] // 16
    averaged = painted[: rows * 16, : columns * 16].reshape(rows, 16, columns, 16, 3).mean((1, 3))
    assert thumbnail.pixels.shape[:2] == (-(-painted.shape[0] // 16), -(-painted.shape[1] // 16))
    assert np.abs(thumbnail.pixels[:rows, :columns] - averaged).max() < 6
    assert not thumbnail.is_unreadable.any()


def test_the_unreadable_part_of_a_thumbnail_is_marked_and_the_rest_is_right(
    write_slide: Write, painted: np.ndarray
) -> None:
    path = write_slide(painted, downsamples=(1,))
    with open_slide(path) as reader:
        good = reader.thumbnail(HALF, 8.0)
    break_tile(path, 12)
    with open_slide(path) as reader:
        broken = reader.thumbnail(HALF, 8.0)
    assert 0 < broken.is_unreadable.mean() < 0.06
    assert np.array_equal(broken.pixels[~broken.is_unreadable], good.pixels[~broken.is_unreadable])
    assert (broken.pixels[broken.is_unreadable] == 255).all()


def test_an_absurd_physical_size_is_refused_before_anything_is_decoded(write_slide: Write, simple: np.ndarray) -> None:
    with open_slide(write_slide(simple)) as reader, pytest.raises(SlideError, match="no glass") as failure:
        reader.thumbnail(MppUsed(200.0, 200.0, "override"), 1.0)
    assert failure.value.reason is FailureReason.TOO_LARGE


@pytest.mark.parametrize("path", ["nowhere.tiff", "nul\0.tiff"])
def test_a_missing_file_is_not_found(tmp_path: Path, path: str) -> None:
    with pytest.raises(SlideError) as failure:
        open_slide(tmp_path / path)
    assert failure.value.reason is FailureReason.NOT_FOUND


def test_a_folder_is_not_a_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideError) as failure:
        open_slide(tmp_path)
    assert failure.value.reason is FailureReason.NOT_FOUND


def test_messages_do_not_repeat_the_path(tmp_path: Path) -> None:
    path = tmp_path / "Doe_John_1950.tiff"
    path.write_bytes(b"not a slide")
    with pytest.raises(SlideError) as failure:
        open_slide(path)
    assert "Doe" not in str(failure.value)


def test_laying_a_large_region_on_white_takes_little_more_than_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (1500, 2000, 4), dtype=np.uint8)
    tracemalloc.start()
    pixels, at_once = np.empty((2, 1500, 2000, 3), np.uint8)
    share = backend_module.on_white(rgba, pixels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * pixels.nbytes + 20 * 2**20
    monkeypatch.setattr(backend_module, "_BLENDED_PX", 10**9)
    assert backend_module.on_white(rgba, at_once) == share == 1.0 - float(rgba[..., 3].mean()) / 255
    np.testing.assert_array_equal(at_once, pixels)
