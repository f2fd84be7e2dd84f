"""JPEG tiles decoded where they lie: OpenSlide's pixels to the last bit, or OpenSlide itself."""

import io
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mhim_core.demo.pyramid import write_pyramid
from mhim_core.errors import SlideError
from mhim_core.slides.backend import Backend, open_backend
from mhim_core.slides.backends import direct
from mhim_core.slides.backends.direct import DirectBackend
from mhim_core.slides.file_tiles import FileTiles, TileCache, TileLayout, UnreadableTileError
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.reader import open_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.slides.subpixel import Place, paint, paint_seams, place_of, sample_within, weights_of
from mhim_core.types import FailureReason

Written = Callable[..., Path]


@pytest.fixture
def opened() -> Iterator[Callable[[Path, str], Any]]:
    """opened(path, name) → the file, opened by that backend."""
    made: list[Backend] = []

    def open_(path: Path, name: str) -> Backend:
        made.append(open_backend(path, name))
        return made[-1]

    yield open_
    for backend in made:
        backend.close()


@pytest.fixture
def odd(write_slide: Written, simple: np.ndarray) -> Path:
    """Levels of 1,487 × 1,093 and a downsample of 3.998: regions above level 0 lie between pixels."""
    pixels = np.random.default_rng(1).integers(0, 60, (1093, 1487, 3), dtype=np.uint8)
    return write_slide(pixels + simple[:1093, :1487] // 2, downsamples=(1, 4), tile_px=64)


def region(backend: Backend, x: int, y: int, level: int, width: int, height: int) -> tuple[np.ndarray, float]:
    out = np.full((height, width, 3), 7, np.uint8)
    return out, backend.read_on_white(x, y, level, out)


def places(backend: Backend, level: int, num: int) -> Iterator[tuple[int, int, int, int]]:
    """x, y in level-0 pixels, width and height: within the level, over its edges, beyond them."""
    rng = np.random.default_rng(level)
    size = backend.info().levels[level]
    for _ in range(num):
        width, height = (int(side) for side in rng.choice([1, 3, 64, 100, 300], 2))
        x, y = (int(rng.integers(-1, side + 2) * size.downsample) for side in (size.width_px, size.height_px))
        yield max(x, 0), max(y, 0), width, height


def check_equal(of_direct: Any, of_openslide: Any, num: int) -> None:
    for level in range(len(of_openslide.info().levels)):
        assert of_direct.prepare_level(level) == ""
        for place in places(of_openslide, level, num):
            x, y, width, height = place
            pixels, share = region(of_direct, x, y, level, width, height)
            expected, expected_share = region(of_openslide, x, y, level, width, height)
            assert share == expected_share, (level, place)
            assert np.array_equal(pixels, expected), (level, place)


def without_openslide(monkeypatch: pytest.MonkeyPatch, backend: DirectBackend) -> None:
    """From here on OpenSlide's pixels are an error."""

    def refused(*_: object) -> None:
        raise AssertionError("OpenSlide was asked")

    monkeypatch.setattr(backend, "read_region", refused)


def test_regions_of_every_level_and_over_every_edge_are_openslides(
    opened: Any, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_direct = opened(odd, "direct")
    assert [of_direct.prepare_level(level) for level in (0, 1)] == ["", ""]
    without_openslide(monkeypatch, of_direct)
    check_equal(of_direct, opened(odd, "openslide"), 120)


def jpeg(pixels: np.ndarray, subsampling: str, is_rgb: bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=subsampling, keep_rgb=is_rgb)
    return buffer.getvalue()


def split(stream: bytes) -> tuple[bytes, bytes]:
    """(tables, the rest) of a JPEG stream, without its application's markers: as a TIFF with JPEGTables stores it."""
    tables, rest, at = b"", b"", 2
    while (marker := stream[at + 1]) != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if marker in (0xDB, 0xC4):
            tables += stream[at:end]
        elif marker not in (0xE0, 0xEE):
            rest += stream[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[at:]


def write_tiff(
    path: Path, tiles: list[bytes], size: tuple[int, int], tile_px: int, photometric: int, tables: bytes
) -> None:
    """A little-endian TIFF of one level, size = (width, height), in stored tiles."""
    values: list[tuple[int, str, list[int] | bytes]] = [
        (256, "I", [size[0]]),
        (257, "I", [size[1]]),
        (258, "H", [8, 8, 8]),
        (259, "H", [7]),
        (262, "H", [photometric]),
        (277, "H", [3]),
        (322, "I", [tile_px]),
        (323, "I", [tile_px]),
        (324, "I", [0] * len(tiles)),
        (325, "I", [len(tile) for tile in tiles]),
        *([(347, "B", tables)] if tables else []),
    ]
    kinds = {"B": 7, "H": 3, "I": 4}
    start = data_at = 8 + 2 + 12 * len(values) + 4
    data_at += sum(struct.calcsize(f"<{len(value)}{code}") for _, code, value in values)
    offsets = [data_at + sum(map(len, tiles[:i])) for i in range(len(tiles))]
    entries, extra = b"", b""
    for tag, code, value in values:
        packed = struct.pack(f"<{len(value)}{code}", *(offsets if tag == 324 else value))
        where = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", start + len(extra))
        extra += packed if len(packed) > 4 else b"\0" * len(packed)
        entries += struct.pack("<HHI4s", tag, kinds[code], len(value), where)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(values))
    path.write_bytes(head + entries + b"\0" * 4 + extra + b"".join(tiles))


@pytest.mark.parametrize(
    ("is_rgb", "subsampling"), [(False, "4:4:4"), (False, "4:2:2"), (False, "4:2:0"), (True, "4:4:4")]
)
@pytest.mark.parametrize("has_tables", [False, True], ids=["whole", "tables"])
def test_colour_spaces_subsamplings_and_tables_of_the_whole_file_are_told_apart(
    tmp_path: Path, opened: Any, simple: np.ndarray, is_rgb: bool, subsampling: str, has_tables: bool
) -> None:
    pixels = np.ascontiguousarray(simple[:384, 256:640]) + np.arange(3, dtype=np.uint8) * 4
    tiles = [jpeg(pixels[y : y + 128, x : x + 128], subsampling, is_rgb) for y in (0, 128, 256) for x in (0, 128, 256)]
    tables = b""
    if has_tables:
        (tables, *_), tiles = (list(part) for part in zip(*map(split, tiles), strict=True))
    write_tiff(tmp_path / "x.tiff", tiles, (380, 370), 128, 2 if is_rgb else 6, tables)
    of_direct, of_openslide = opened(tmp_path / "x.tiff", "direct"), opened(tmp_path / "x.tiff", "openslide")
    check_equal(of_direct, of_openslide, 40)
    centre, _ = region(of_direct, 100, 100, 0, 200, 200)
    assert np.abs(centre.astype(int) - pixels[100:300, 100:300]).mean() < 6


WIDE, TALL = 380, 370
"""Of a level of 3 × 3 tiles of 128 px."""


def pictures(simple: np.ndarray, num: int = 9) -> list[np.ndarray]:
    pixels = np.ascontiguousarray(simple[:384, 256:640]) + np.arange(3, dtype=np.uint8) * 4
    return [pixels[y : y + 128, x : x + 128] for y in (0, 128, 256) for x in (0, 128, 256)][:num]


def grey(pixels: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def check_every_tile(of_direct: Backend, of_openslide: Backend) -> list[bool]:
    """Equal pixels or the same failure, tile by tile; which could be read."""

    def tile(backend: Backend, x: int, y: int) -> object:
        try:
            pixels, share = region(backend, x, y, 0, 128, 128)
        except SlideError as error:
            return error.reason
        return pixels.tobytes(), share

    seen = [[tile(each, x, y) for y in (0, 128, 256) for x in (0, 128, 256)] for each in (of_direct, of_openslide)]
    assert [a == b for a, b in zip(*seen, strict=True)] == [True] * 9
    return [isinstance(each, tuple) for each in seen[0]]


@pytest.mark.parametrize("odd_one", ["rgb in ycbcr", "jfif in rgb", "grey", "cmyk", "other size"])
def test_one_tile_that_contradicts_the_file_is_what_openslide_makes_of_it(
    tmp_path: Path, opened: Any, simple: np.ndarray, odd_one: str
) -> None:
    is_rgb = odd_one == "jfif in rgb"
    parts = pictures(simple)
    tiles = [jpeg(part, "4:4:4", is_rgb) for part in parts]
    tiles[1] = {
        "rgb in ycbcr": lambda: jpeg(parts[1], "4:4:4", True),
        "jfif in rgb": lambda: jpeg(parts[1], "4:4:4", False),
        "grey": lambda: grey(parts[1], "L"),
        "cmyk": lambda: grey(parts[1], "CMYK"),
        "other size": lambda: jpeg(parts[1][:64], "4:4:4", False),
    }[odd_one]()
    path = tmp_path / "x.tiff"
    write_tiff(path, tiles, (WIDE, TALL), 128, 2 if is_rgb else 6, b"")
    of_direct, of_openslide = opened(path, "direct"), opened(path, "openslide")
    assert of_direct.prepare_level(0) == ""
    check_every_tile(of_direct, of_openslide)


def test_a_sparse_file_is_compared_where_it_has_tiles_and_one_without_any_is_left_to_openslide(
    tmp_path: Path, opened: Any, simple: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = [jpeg(part, "4:4:4", False) for part in pictures(simple)]
    sparse = [tile if number in (1, 3) else b"" for number, tile in enumerate(tiles)]
    write_tiff(tmp_path / "sparse.tiff", sparse, (WIDE, TALL), 128, 6, b"")
    write_tiff(tmp_path / "empty.tiff", [b""] * 9, (WIDE, TALL), 128, 6, b"")
    of_direct = opened(tmp_path / "sparse.tiff", "direct")
    assert of_direct.prepare_level(0) == ""
    check_every_tile(of_direct, opened(tmp_path / "sparse.tiff", "openslide"))
    assert "OpenSlide" in opened(tmp_path / "empty.tiff", "direct").prepare_level(0)
    decode = FileTiles._decode
    monkeypatch.setattr(
        FileTiles, "_decode", lambda tiles, index, out: (decode(tiles, index, out), out.__setitem__(slice(None), 9))
    )
    assert "OpenSlide" in opened(tmp_path / "sparse.tiff", "direct").prepare_level(0)


def test_fewer_places_than_tiles_and_a_size_that_no_picture_has_are_left_to_openslide(
    tmp_path: Path, opened: Any, simple: np.ndarray
) -> None:
    tiles = [jpeg(part, "4:4:4", False) for part in pictures(simple)]
    write_tiff(tmp_path / "few.tiff", tiles[:8], (WIDE, TALL), 128, 6, b"")
    with tifffile.TiffFile(tmp_path / "few.tiff") as tiff:
        assert not FileTiles.is_direct(tiff.pages.first)
    assert not isinstance(opened(tmp_path / "few.tiff", "auto"), DirectBackend)
    long = [*tiles[:4], tiles[4] + bytes(300_000), *tiles[5:]]
    write_tiff(tmp_path / "long.tiff", long, (WIDE, TALL), 128, 6, b"")
    of_direct = opened(tmp_path / "long.tiff", "direct")
    of_direct.prepare_level(0)
    with pytest.raises(UnreadableTileError):
        of_direct._checked[0].stream(4)
    check_every_tile(of_direct, opened(tmp_path / "long.tiff", "openslide"))


def test_a_tile_that_the_disk_does_not_give_is_asked_of_openslide(
    opened: Any, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(odd, "direct")
    backend.prepare_level(0)

    def failing(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mhim_core.slides.backends.direct.os.pread", failing)
    pixels, _ = region(backend, 500, 300, 0, 100, 100)
    assert np.array_equal(pixels, region(opened(odd, "openslide"), 500, 300, 0, 100, 100)[0])


def test_a_page_of_a_level_s_size_that_is_no_level_is_not_taken_for_it(
    tmp_path: Path, opened: Any, simple: np.ndarray
) -> None:
    write_tiff(
        tmp_path / "j.tiff", [jpeg(part, "4:4:4", False) for part in pictures(simple)], (WIDE, TALL), 128, 6, b""
    )
    backend = opened(tmp_path / "j.tiff", "direct")

    class TwoPages:
        def __init__(self, _: Path) -> None:
            self._file = tifffile.TiffFile(tmp_path / "j.tiff")
            page: Any = self._file.pages.first
            other = SimpleNamespace(imagewidth=page.imagewidth, imagelength=page.imagelength, is_tiled=False)
            self.pages = [other, page]

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    assert set(backend._unchecked) == {0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct.tifffile, "TiffFile", TwoPages)
        assert backend._levels() == {}


def test_real_slides_are_read_as_openslide_reads_them(shared_data: Path, opened: Any) -> None:
    folder = shared_data / "slides"
    paths = [*sorted(folder.glob("atlas10x/*.tiff"))[::4], *sorted(folder.glob("atlas20x/*.tiff"))[:1]]
    for path in [*paths, folder / "CMU-1-Small-Region.svs"]:
        backend = opened(path, "auto")
        assert isinstance(backend, DirectBackend)
        check_equal(backend, opened(path, "openslide"), 12)


@pytest.mark.parametrize("offset_px", [0, 37])
def test_each_stored_tile_is_decoded_once_row_by_row(
    opened: Any, odd: Path, monkeypatch: pytest.MonkeyPatch, offset_px: int
) -> None:
    backend = opened(odd, "direct")
    backend.prepare_level(0)
    decoded: list[int] = []
    decode = FileTiles._decode
    monkeypatch.setattr(
        FileTiles, "_decode", lambda tiles, index, out: (decoded.append(index), decode(tiles, index, out))
    )
    for y in range(offset_px, 1093 - 64, 64):
        for x in range(offset_px, 1487 - 64, 64):
            region(backend, x, y, 0, 64, 64)
    assert len(decoded) == len(set(decoded)) > 300


def test_memory_is_bounded_where_a_row_of_tiles_is_larger(opened: Any, odd: Path) -> None:
    backend = opened(odd, "direct")
    backend.prepare_level(0)
    tiles = backend._checked[0]
    tiles._cache = cache = TileCache(5 * 64 * 64 * 3)
    whole, of_openslide = (region(each, 0, 30, 0, 1400, 200)[0] for each in (backend, opened(odd, "openslide")))
    assert np.array_equal(whole, of_openslide)
    assert cache._num_bytes <= 5 * 64 * 64 * 3


class Picture:
    """Stored tiles of a picture in memory."""

    def __init__(self, pixels: np.ndarray, tile_px: int) -> None:
        self.grid = TileLayout(pixels.shape[1], pixels.shape[0], tile_px, tile_px)
        self._pixels = pixels

    def copy(self, x: int, y: int, out: np.ndarray) -> None:
        out[:] = self._pixels[y : y + out.shape[0], x : x + out.shape[1]]


@pytest.mark.parametrize("part", [(0.25, 0.75), (0.999, 0.001), (0.5, 0.0), (0.0, 0.3), (1 / 65536, 0.5)])
@pytest.mark.parametrize(("start", "num_lines"), [((13, 29), (3, 3)), ((62, 57), (4, 4))], ids=["within", "edge"])
def test_sampling_and_its_seams_are_what_painting_tile_by_tile_gives(
    part: tuple[float, float], start: tuple[int, int], num_lines: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 160, 3), dtype=np.uint8)
    pixels[40:80, 40:80] = 255
    tiles = Picture(pixels, 32)
    x, y = place_of(start[0] + part[0]), place_of(start[1] + part[1])
    height, width = min(97, 150 - y.whole), min(101, 160 - x.whole)
    block, sampled = np.zeros((height + 1, width + 1, 3), np.uint8), np.empty((height, width, 4), np.uint8)
    stored = block[: 150 - y.whole, : 160 - x.whole]
    tiles.copy(x.whole, y.whole, stored)
    colours = np.empty((height, width, 3), np.uint8)
    sample_within(block, weights_of(x, y), colours)
    sampled[..., :3], sampled[..., 3] = colours, 255
    strips = paint_seams(block, weights_of(x, y), x, y, tiles.grid)
    columns, rows = (num if share else 0 for num, share in zip(num_lines, part, strict=True))
    assert len(strips) == columns + rows + columns * rows
    for at_rows, at_columns, rgba in strips:
        sampled[at_rows, at_columns] = rgba
    assert np.array_equal(sampled, paint(tiles, x, y, width, height))


def test_a_place_is_the_nearest_sixteenth_bit_fraction() -> None:
    assert place_of(7.5) == Place(7, 32768)
    assert place_of(8 - 2**-18) == Place(8, 0)


@pytest.mark.parametrize("level", [0, 1])
def test_a_level_of_which_openslide_sees_other_pixels_is_left_to_it_and_that_is_said(
    odd: Path, opened: Any, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    decode = FileTiles._decode

    def off_by_one(tiles: FileTiles, index: int, out: np.ndarray) -> None:
        decode(tiles, index, out)
        if tiles._level == level:
            out[-1, -1] ^= 1

    monkeypatch.setattr(FileTiles, "_decode", off_by_one)
    with prepare_slide(
        odd,
        mpp_override=(0.5, 2.0)[level] / (1, 3.998)[level],
        spec=TileSpec(target_mpp=(0.5, 2.0)[level]),
        policy=SlidePolicy(),
    ) as slide:
        assert slide.plan.level == level
        assert f"level {level} is decoded by OpenSlide" in slide.decoding
    backend = opened(odd, "direct")
    x, y, width, height = 600, 500, 200, 100
    expected = region(opened(odd, "openslide"), x, y, level, width, height)[0]
    assert np.array_equal(region(backend, x, y, level, width, height)[0], expected)


def damaged(path: Path, level_width: int, change: Callable[[bytes], bytes]) -> Path:
    """The file with the bytes of the fourth tile of a level changed in place."""
    with tifffile.TiffFile(path) as tiff:
        page: Any = next(page for page in tiff.pages if page.imagewidth == level_width)
        offset, num_bytes = page.dataoffsets[3], page.databytecounts[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + num_bytes] = change(bytes(data[offset : offset + num_bytes])).ljust(num_bytes, b"\0")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda tile: b"",
        lambda tile: b"\xff\xd8\xff\xd9",
        lambda tile: tile[: len(tile) // 2],
        lambda tile: tile[:300] + b"\0" * 50 + tile[350:],
        lambda tile: tile[:-200] + b"\xff\xd9" + b"\0" * 198,
        lambda tile: tile.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 64, 32), 1),
    ],
    ids=["zeros", "empty", "half", "hole", "early end", "other size"],
)
def test_a_damaged_tile_is_whatever_openslide_makes_of_it_and_costs_no_other(
    odd: Path, opened: Any, change: Callable[[bytes], bytes]
) -> None:
    path = damaged(odd, 1487, change)
    of_direct, of_openslide = opened(path, "direct"), opened(path, "openslide")
    assert of_direct.prepare_level(0) == ""

    def seen(backend: Backend, x: int, y: int) -> tuple[list[int], float] | FailureReason:
        try:
            pixels, share = region(backend, x, y, 0, 64, 64)
        except SlideError as error:
            return error.reason
        return pixels.ravel().tolist(), share

    for x, y in ((192, 0), (150, 20), (0, 64), (500, 300)):
        assert seen(of_direct, x, y) == seen(of_openslide, x, y)


@pytest.mark.parametrize("seed", range(4))
def test_files_with_random_damage_are_read_as_openslide_reads_them(
    odd: Path, tmp_path: Path, opened: Any, seed: int
) -> None:
    """Bits, zeros and other bytes anywhere, in the directories too: the same pixels or the same failure."""
    rng = random.Random(seed)
    whole, path = odd.read_bytes(), tmp_path / "damaged.tiff"
    num_compared = 0
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 20])):
            at = rng.randrange(len(data) if rng.random() < 0.8 else 1200)
            data[at : at + 1] = rng.choice([bytes([data[at] ^ 1 << rng.randrange(8)]), bytes(1), b"\xff"])
        path.write_bytes(data)
        try:
            both = opened(path, "direct"), opened(path, "openslide")
        except SlideError:
            continue
        for level, size in enumerate(both[1].info().levels):
            for _ in range(4):
                place = [int(rng.randrange(min(side, 2000)) * size.downsample) for side in size[:2]]
                seen = []
                for backend in both:
                    try:
                        pixels, share = region(backend, *place, level, 100, 100)
                        seen.append((pixels.tobytes(), share))
                    except SlideError as error:
                        seen.append(error.reason)
                assert seen[0] == seen[1], (seed, level, place)
                num_compared += 1
    assert num_compared >= 16


def test_the_same_tiles_and_shares_and_one_identity_whoever_decodes(odd: Path) -> None:
    batches = []
    for name in ("auto", "direct", "openslide"):
        spec = TileSpec(backend=name, target_mpp=2.1, tile_px=64, min_tissue=0)
        with prepare_slide(odd, mpp_override=None, spec=spec, policy=SlidePolicy()) as slide:
            assert slide.reader.backend == ("openslide", 1)
            parts = list(slide.reader.tiles(slide.plan))
        batches.append(
            [np.concatenate([getattr(part, key) for part in parts]) for key in ("index", "tiles", "background_share")]
        )
        assert tiling_identity(spec) == tiling_identity(TileSpec(target_mpp=2.1, tile_px=64, min_tissue=0))
    for of_auto, of_direct, of_openslide in zip(*batches, strict=True):
        assert np.array_equal(of_auto, of_openslide)
        assert np.array_equal(of_direct, of_openslide)
    assert batches[0][2].any()  # the last tiles lie over the edge


def test_thumbnails_are_openslides(odd: Path) -> None:
    thumbnails = []
    for name in ("direct", "openslide"):
        with prepare_slide(odd, mpp_override=None, spec=TileSpec(backend=name), policy=SlidePolicy()) as slide:
            thumbnails += [slide.reader.thumbnail(slide.mpp, mpp).pixels for mpp in (0.7, 3.0)]
    assert np.array_equal(thumbnails[0], thumbnails[2])
    assert np.array_equal(thumbnails[1], thumbnails[3])


def test_files_without_jpeg_tiles_are_openslides_alone(tmp_path: Path, simple: np.ndarray) -> None:
    path = tmp_path / "x.tiff"
    tifffile.imwrite(path, simple, photometric="rgb", tile=(256, 256))
    with open_slide(path) as reader:
        assert not isinstance(reader._backend, DirectBackend)
    with pytest.raises(SlideError, match="backend=auto") as refused:
        open_slide(path, "direct")
    assert refused.value.reason is FailureReason.OPEN


def test_two_levels_of_one_size_are_not_guessed_between(tmp_path: Path, opened: Any, simple: np.ndarray) -> None:
    path = tmp_path / "x.tiff"
    write_pyramid(path, simple, mpp=(0.5, 0.5), downsamples=(1, 4, 4))
    backend = opened(path, "direct")
    assert {0} <= set(backend._unchecked) <= {0, 1, 2}
    check = {level: backend.prepare_level(level) for level in range(len(backend.info().levels))}
    assert check[0] == ""
    assert 1 not in backend._checked


def test_a_region_that_openslide_would_cut_is_left_to_it(
    opened: Any, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_MAX_REGION_PX", 100)
    backend = opened(odd, "direct")
    backend.prepare_level(1)
    region(backend, 0, 0, 1, 100, 100)
    without_openslide(monkeypatch, backend)
    with pytest.raises(AssertionError, match="OpenSlide was asked"):
        region(backend, 0, 0, 1, 101, 100)
