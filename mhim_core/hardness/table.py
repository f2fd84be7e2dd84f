"""The tables of `mhim hardness`: the versioned schemas that its writer and every reader (training, a viewer) share.

**bags** (`bags.parquet`, `.csv`), a row a bag of the run, the most suspicious first, bags that no model held out last:

    rank               int64    from 1, by suspicion; null: no model held the bag out
    bag_id             string   a slide's id, or a patient's
    slide_ids          string   the bag's slides, separated by spaces
    patient_id, site   string
    label              string
    predicted          string   the class with the highest mean probability by models that held it out; null as `rank`
    probability        double   the mean probability of the bag's own label
    type               string   safe, borderline, rare or outlier, by those models' spaces; null as `rank`
    num_same           double   of the k − 1 nearest others, those with the label; a mean over num_models spaces
    num_models         int64    models (folds × seeds) that held the bag out
    suspicion          double   0 to 1 (`suspects.Judgement`)
    is_suspect         bool     outlier, and another class confidently predicted
    nearest            string   ids of the k − 1 nearest others, the nearest first, in the first such model's space
    fold               int64    that model's fold
    map_x, map_y       double   the bag's place in the plane of that model's space; comparable within a fold alone
    feature_type       string   the type among all bags by mean tile features, in which no label has a part
    feature_x, feature_y  double  the bag's place in the plane of the mean tile features, one for the whole cohort

**tiles** (`tiles.parquet`, `.csv`), a row a sampled tile: bag_id, slide_id, tile (its row in the slide's features),
x_l0_px, y_l0_px, label (its slide's), type, num_same, map_x, map_y (one plane for the sample).

**effects** (`effects.parquet`, `.csv`): the fields of `resampling.Effect`.

**features** (`features.parquet`): bag_id, patient_id, label, feature (fixed-size list of float, the mean of the bag's
tile features): from it `mhim train` computes the types of each fold's training bags by themselves.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mhim_core.errors import IntegrityError
from mhim_core.hardness.hardness_type import HardnessType
from mhim_core.metrics.arrays import Floats
from mhim_core.tables import read_parquet, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
"""Of all four; raised when a column is added, renamed or changes its meaning. Readers refuse a later version."""
_VERSION_KEY = b"mhim.hardness"


def bags_schema() -> "pa.Schema":
    """One row a bag."""
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    return _schema(
        {
            "rank": whole,
            **dict.fromkeys(("bag_id", "slide_ids", "patient_id", "site", "label", "predicted"), text),
            "probability": number,
            "type": text,
            "num_same": number,
            "num_models": whole,
            "suspicion": number,
            "is_suspect": pa.bool_(),
            "nearest": text,
            "fold": whole,
            **dict.fromkeys(("map_x", "map_y"), number),
            "feature_type": text,
            **dict.fromkeys(("feature_x", "feature_y"), number),
        }
    )


def tiles_schema() -> "pa.Schema":
    """One row a sampled tile."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    return _schema(
        {
            **dict.fromkeys(("bag_id", "slide_id"), text),
            **dict.fromkeys(("tile", "x_l0_px", "y_l0_px"), pa.int32()),
            **dict.fromkeys(("label", "type"), text),
            "num_same": pa.int64(),
            **dict.fromkeys(("map_x", "map_y"), number),
        }
    )


def effects_schema() -> "pa.Schema":
    """One row a weighting, head and metric."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    return _schema(
        {
            **dict.fromkeys(("weights", "head", "metric"), text),
            **dict.fromkeys(("even", "weighted", "difference", "low", "high"), number),
            "num_left_out": pa.int64(),
            "reason": text,
        }
    )


def features_schema(dim: int) -> "pa.Schema":
    """One row a bag, of `dim` features."""
    import pyarrow as pa

    return _schema(
        {
            **dict.fromkeys(("bag_id", "patient_id", "label"), pa.string()),
            "feature": pa.list_(pa.float32(), dim),
        }
    )


class BagFeatures(NamedTuple):
    """The mean tile features of N bags, in the order of their ids."""

    bag_ids: list[str]
    patients: list[str]
    labels: list[str]
    x_ND: Floats
    """As float32 holds them: what is read back is what was written."""


def encode_features(features: BagFeatures) -> bytes:
    """The Parquet file of `features_schema`."""
    rows = [
        {"bag_id": bag_id, "patient_id": patient, "label": label, "feature": x_D.astype(np.float32).tolist()}
        for bag_id, patient, label, x_D in zip(*features, strict=True)
    ]
    return write_parquet(rows, schema=features_schema(features.x_ND.shape[1]))


def decode_features(data: bytes, where: str) -> BagFeatures:
    """Raises IntegrityError naming `where` if the bytes are no such file of this version or an earlier one."""
    rows = _read(data, where, ("bag_id", "patient_id", "label", "feature"))
    x_ND = np.array([row["feature"] for row in rows], dtype=np.float64)
    if x_ND.ndim != 2 or not np.isfinite(x_ND).all():
        raise IntegrityError(f"{where} does not hold a feature of one length for every bag")
    return BagFeatures(
        [row["bag_id"] for row in rows], [row["patient_id"] for row in rows], [row["label"] for row in rows], x_ND
    )


def decode_bags(data: bytes, where: str) -> list[dict[str, Any]]:
    """The rows of `bags.parquet`, `type` and `feature_type` as `HardnessType`. Raises as `decode_features`."""
    rows = _read(data, where, bags_schema().names)
    try:
        return [
            row | {name: row[name] and HardnessType(row[name]) for name in ("type", "feature_type")} for row in rows
        ]
    except ValueError as error:
        raise IntegrityError(f"{where} names a type that this mhim does not know: {error}") from error


def encode_rows(rows: Sequence[Mapping[str, Any]], schema: "pa.Schema") -> bytes:
    """Rows of any of the tables as Parquet."""
    return write_parquet(rows, schema=schema)


def _schema(columns: Mapping[str, Any]) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(list(columns.items()), metadata={_VERSION_KEY: str(VERSION).encode()})


def _read(data: bytes, where: str, names: Sequence[str]) -> list[dict[str, Any]]:
    import pyarrow as pa

    try:
        table = read_parquet(data)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{where} is no Parquet file: {error}") from error
    stated = (table.schema.metadata or {}).get(_VERSION_KEY, b"").decode(errors="replace")
    if not stated.isdigit() or len(stated) > 9:
        raise IntegrityError(f"{where} is no table of mhim hardness: its version is {stated!r}")
    if int(stated) > VERSION:
        raise IntegrityError(f"{where} is a table of mhim hardness of version {stated}; this mhim reads {VERSION}")
    if missing := [name for name in names if name not in table.column_names]:
        raise IntegrityError(f"{where} lacks {', '.join(missing)}")
    rows: list[dict[str, Any]] = table.select(list(names)).to_pylist()
    return rows
