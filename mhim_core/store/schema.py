"""THE contract between embedding and training: one Parquet file per slide and feature set.

Rows are tiles in row-major order (by y, then x). Columns:

    tile              int32                        0 … N-1
    x_l0_px           int32                        the tile's top-left corner in level-0 pixels
    y_l0_px           int32
    tissue_share      float32                      share of the tile's area that is tissue, 0 to 1
    background_share  float32                      share where the scanner stored nothing (white), 0 to 1
    features          fixed_size_list<float16, D>

Columns that a tiling asks for follow them, in this order (`OPTIONAL_COLUMNS`); a file without any is as version 0.1
wrote it:

    tile_class        string                       class of the annotated region that covers the tile, "" for none
    sharpness         float32                      variance of the tile's Laplacian (`slides/quality.py`)
    pen_share         float32                      share of the tile's area under pen, 0 to 1
    fold_share        float32                      share of the tile's area under folds of the tissue, 0 to 1

Features that were imported from another tool have what that tool states: -1 in all places and NaN in all shares stand
for what it does not state.

The file's metadata key `mhim` is canonical JSON: what the features are of and what computed them. Nothing in a file
varies with time, host, path, attempt or thread count: the same features give the same bytes.

Writer options are constants chosen by measurement (12,000 × 1,024, 2 cores, real features): zstd level 1 with byte
stream split is 34 % below float16's raw size and no slower to read than uncompressed; levels 3 and 6 write 2–3 times
longer for nothing. Row groups of 4 MiB let the reader's threads work side by side.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mhim_core.errors import IntegrityError, SlideError
from mhim_core.features import FOLD_SHARE, PEN_SHARE, SHARPNESS, TILE_CLASS, SlideFeatures, has_places
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.records import parse_json
from mhim_core.types import FailureReason, SlideId

SCHEMA_VERSION = 1
METADATA_KEY = b"mhim"
DTYPE = "float16"

OPTIONAL_COLUMNS: dict[str, pa.DataType] = {
    TILE_CLASS: pa.string(),
    SHARPNESS: pa.float32(),
    PEN_SHARE: pa.float32(),
    FOLD_SHARE: pa.float32(),
}
"""By name; a file has any of them, in this order."""

_ROW_GROUP_BYTES = 4 * 2**20
MAX_ROWS = 2_000_000
"""Tiles of one slide, the limit of tiling as well: a file of more is none of ours."""
_BYTES_BESIDE_FEATURES = 20
"""Of a row: tile, x, y, two shares."""
_BYTES_OF_COLUMN = 8
"""Of a row and an optional column: texts are few, and written once."""
_LARGE_BYTES = 64 * 2**20
"""Of features, from which on Arrow is asked to give back what it no longer needs; it takes up to twice as much."""
_FREE_BYTES = 2**20
"""For page headers and levels of small files."""
_INFINITY_BITS = 0x7C00
_SIGN_MASK = 0x7FFF


class FeatureTable(NamedTuple):
    """A feature file, read and verified. N tiles, D features; the arrays are the caller's own."""

    slide_id: SlideId
    features: np.ndarray
    """float16 (N, D), finite."""
    coords_l0_px: np.ndarray
    """int32 (N, 2): x, y of the top-left corners; see `SlideFeatures` for what imported features leave open."""
    tissue_share: np.ndarray
    """float32 (N,)."""
    background_share: np.ndarray
    """float32 (N,)."""
    metadata: dict[str, Any]
    """The file's own account: encoder, tiling, mpp, effective_mpp, tile_size_l0_px, upsample, source, versions, …"""
    columns: Mapping[str, np.ndarray] = MappingProxyType({})
    """Its optional columns by name, (N,)."""


def feature_schema(dim: int, optional: Collection[str] = ()) -> pa.Schema:
    """The columns for features of length `dim`, and those of OPTIONAL_COLUMNS that are named; nothing is nullable."""
    features = pa.list_(pa.field("element", pa.float16(), nullable=False), dim)
    columns = {
        "tile": pa.int32(),
        "x_l0_px": pa.int32(),
        "y_l0_px": pa.int32(),
        "tissue_share": pa.float32(),
        "background_share": pa.float32(),
        "features": features,
        **{name: kind for name, kind in OPTIONAL_COLUMNS.items() if name in optional},
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def encode_features(features: SlideFeatures) -> bytes:
    """The slide's whole Parquet file in memory: a writer left by an exception would leave a valid-looking footer.

    Raises SlideError(bad_features) if a shape, type or value is not what the contract says.
    """
    check_features(features)
    xy = features.coords_l0_px
    order = np.lexsort((xy[:, 0], xy[:, 1]))
    values = np.ascontiguousarray(features.features[order])
    dim = values.shape[1]
    schema = feature_schema(dim, features.columns)
    texts = [name for name in schema.names if schema.field(name).type == pa.string()]
    columns = [
        pa.array(np.arange(len(order), dtype=np.int32)),
        pa.array(xy[order, 0]),
        pa.array(xy[order, 1]),
        pa.array(features.tissue_share[order]),
        pa.array(features.background_share[order]),
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=schema.field("features").type),
        *(
            pa.array(features.columns[name][order], type=schema.field(name).type)
            for name in OPTIONAL_COLUMNS
            if name in features.columns
        ),
    ]
    metadata = {METADATA_KEY: canonical_json(file_metadata(features))}
    table = pa.Table.from_arrays(columns, schema=schema.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(256, _ROW_GROUP_BYTES // (2 * dim)),
        compression="zstd",
        compression_level=1,
        use_dictionary=texts or False,
        column_encoding={"features.list.element": "BYTE_STREAM_SPLIT", "tile": "DELTA_BINARY_PACKED"},
        write_statistics=False,
        write_page_checksum=True,
        data_page_size=2**20,
        data_page_version="1.0",
        version="2.6",
    )
    return sink.getvalue().to_pybytes()


def file_metadata(features: SlideFeatures) -> dict[str, Any]:
    """The file's metadata.

    The hint, the source's sha256 and who stated the mpp are left to the commit: they change no feature.
    """
    reading, cut = features.reading, features.cut
    return {
        "schema_version": SCHEMA_VERSION,
        "slide_id": features.slide_id,
        "dim": features.features.shape[1],
        "encoder": features.encoder,
        "tiling": cut.tiling,
        "mpp": [reading.mpp.x, reading.mpp.y],
        "effective_mpp": list(reading.effective_mpp),
        "tile_size_l0_px": list(cut.tile_size_l0_px),
        "upsample": reading.upsample,
        "source": reading.source,
        "width_l0_px": cut.width_l0_px,
        "height_l0_px": cut.height_l0_px,
        "num_bad_tiles": features.num_bad_tiles,
        "versions": features.versions,
        **({"regions": reading.regions} if reading.regions else {}),
    }


def check_features(features: SlideFeatures) -> None:
    """Raises SlideError(bad_features): wrong shapes or types, NaN or Inf, a share outside 0–1, a tile twice."""
    num_tiles, is_imported = len(features.features), features.cut.is_imported
    arrays = {
        "features": (features.features, np.float16, 2),
        "coords_l0_px": (features.coords_l0_px, np.int32, 2),
        "tissue_share": (features.tissue_share, np.float32, 1),
        "background_share": (features.background_share, np.float32, 1),
    }
    for name, (array, dtype, ndim) in arrays.items():
        if array.dtype != dtype or array.ndim != ndim or len(array) != num_tiles:
            raise _bad(features, f"{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} of {num_tiles} tiles")
    if features.coords_l0_px.shape[1] != 2 or features.features.shape[1] < 1:
        raise _bad(
            features, f"shapes {features.features.shape} and {features.coords_l0_px.shape} are not (N, D), (N, 2)"
        )
    if not all_finite(features.features):
        raise _bad(features, "NaN or infinite features: the encoder overflowed float16 or its weights are broken")
    for name, share in (("tissue", features.tissue_share), ("background", features.background_share)):
        is_unstated = is_imported and bool(np.isnan(share).all())
        if num_tiles and not is_unstated and not (share.min() >= 0 and share.max() <= 1):
            raise _bad(features, f"{name} shares from {share.min()} to {share.max()}, outside 0 to 1")
    is_placed = not is_imported or has_places(features.coords_l0_px)
    if is_placed and len(np.unique(features.coords_l0_px, axis=0)) != num_tiles:
        raise _bad(features, "a tile occurs twice")
    for name, values in features.columns.items():
        if name not in OPTIONAL_COLUMNS or values.shape != (num_tiles,):
            raise _bad(features, f"column {name} is {values.dtype} {values.shape}, not one of {num_tiles} tiles")


def decode_features(
    data: bytes,
    *,
    slide_id: SlideId,
    dim: int,
    expect_sha256: str | None = None,
    num_tiles: int | None = None,
) -> FeatureTable:
    """The file back as arrays, verified: sha256 where given, page checksums, schema, slide, dimension, finite values.

    `num_tiles`: as the commit states; None: not known. A footer that announces more, other columns, or more memory than
    they take is refused before a page is decoded. Raises IntegrityError naming the slide and what was found.
    """
    if expect_sha256 is not None and sha256(data) != expect_sha256:
        raise IntegrityError(f"slide {slide_id}: its feature file does not match the committed sha256 {expect_sha256}")
    try:
        file = _arrows_own(data)
        _check_footer(slide_id, pq.ParquetFile(pa.BufferReader(file)), dim, num_tiles)
        # the dataset reader decodes row groups on several threads; ParquetFile.read takes 1.5 times as long
        table = pq.read_table(pa.BufferReader(file), page_checksum_verification=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise IntegrityError(f"slide {slide_id}: its feature file cannot be read: {error}") from error
    metadata = _read_metadata(slide_id, table.schema)
    if metadata["slide_id"] != slide_id or metadata["schema_version"] != SCHEMA_VERSION:
        raise IntegrityError(
            f"slide {slide_id}: its feature file is of slide {metadata['slide_id']}, "
            f"schema version {metadata['schema_version']} (this mhim reads {SCHEMA_VERSION})"
        )
    features = _matrix(table.column("features"), table.num_rows, dim)
    if not all_finite(features):
        raise IntegrityError(f"slide {slide_id}: its feature file holds NaN or infinite features")
    coords = np.stack([table.column(name).to_numpy() for name in ("x_l0_px", "y_l0_px")], axis=1)
    tissue, background = (np.array(table.column(f"{name}_share")) for name in ("tissue", "background"))
    columns = {name: np.array(table.column(name)) for name in OPTIONAL_COLUMNS if name in table.column_names}
    is_large = features.nbytes > _LARGE_BYTES
    del file, table
    if is_large:  # Arrow keeps what it has freed, here twice the features
        pa.default_memory_pool().release_unused()
    return FeatureTable(slide_id, features, coords, tissue, background, metadata, columns)


def all_finite(values: np.ndarray) -> bool:
    """np.isfinite(values).all() for float16, eight times as fast: finite numbers have an exponent below all ones."""
    return not values.size or bool((values.view(np.uint16) & _SIGN_MASK).max() < _INFINITY_BITS)


def _check_footer(slide_id: SlideId, file: pq.ParquetFile, dim: int, num_tiles: int | None) -> None:
    """Raises IntegrityError if what the footer announces is not this slide's features: kilobytes may hold gigabytes."""
    footer, schema = file.metadata, file.schema_arrow
    _read_metadata(slide_id, schema)  # a file of another kind is called that
    optional = [name for name in OPTIONAL_COLUMNS if name in schema.names]
    if not schema.equals(feature_schema(dim, optional)):
        columns = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise IntegrityError(
            f"slide {slide_id}: its feature file holds ({columns}), not float16 features of length {dim}"
        )
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    num_rows, num_bytes = footer.num_rows, sum(group.total_byte_size for group in groups)
    if num_tiles is not None and num_rows != num_tiles:
        finding = f"has {num_rows:,} tiles, its commit {num_tiles:,}"
    elif num_rows > MAX_ROWS or sum(group.num_rows for group in groups) != num_rows:
        finding = f"announces {num_rows:,} tiles in {len(groups):,} row groups; a slide has at most {MAX_ROWS:,}"
    elif num_bytes > 2 * num_rows * (_BYTES_BESIDE_FEATURES + _BYTES_OF_COLUMN * len(optional) + 2 * dim) + _FREE_BYTES:
        finding = f"announces {num_bytes:,} bytes for {num_rows:,} tiles of {dim} features"
    else:
        return
    raise IntegrityError(f"slide {slide_id}: its feature file {finding}")


def _matrix(column: pa.ChunkedArray, num_rows: int, dim: int) -> np.ndarray:
    """float16 (N, D), writable: one copy out of the row groups' buffers."""
    matrix = np.empty((num_rows, dim), np.float16)
    start = 0
    for chunk in column.chunks:
        matrix[start : start + len(chunk)] = chunk.flatten().to_numpy().reshape(-1, dim)
        start += len(chunk)
    return matrix


def _arrows_own(data: bytes) -> pa.Buffer:
    """A copy that Arrow's threads may let go of without Python: see `tables.read_parquet`."""
    own = pa.allocate_buffer(len(data))
    np.frombuffer(own, np.uint8)[:] = np.frombuffer(data, np.uint8)
    return own


def _read_metadata(slide_id: SlideId, schema: pa.Schema) -> dict[str, Any]:
    try:
        metadata = parse_json((schema.metadata or {})[METADATA_KEY])
        metadata["slide_id"], metadata["schema_version"]
    except (KeyError, ValueError, TypeError) as error:
        raise IntegrityError(f"slide {slide_id}: its feature file was not written by mhim: {error!r}") from error
    return dict(metadata)


def _bad(features: SlideFeatures, finding: str) -> SlideError:
    return SlideError(FailureReason.BAD_FEATURES, f"slide {features.slide_id}: {finding}")
