"""What routes answer about one slide: its facts, pictures, layers and tiles. Plain functions of a source and a pool."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from cluster.staging import at_hand
from flows.viewing.packed import pack
from flows.viewing.source import Recent, Source
from mhim_core.errors import InputError, MhimError, NotFoundError, SlideError, StorageError
from mhim_core.features import MppUsed, has_places
from mhim_core.printable import one_line
from mhim_core.store.schema import FeatureTable
from mhim_core.types import FailureReason, SlideId, SlideTask
from mhim_core.view.bag_looks import BagLook, layout_in_bag, look_at_bag, outputs_without
from mhim_core.view.mined import TileFate
from mhim_core.view.nearest import TileSample, draw_sample, nearest_tiles
from mhim_core.view.outline import outline_of
from mhim_core.view.pyramid import (
    OVERVIEW_PX,
    Overview,
    Region,
    draw_region,
    encode_jpeg,
    max_level,
    tile_region,
)
from mhim_core.view.readers import LocalSlide, ReaderPool
from mhim_core.view.worklist import WorklistRow

THUMBNAIL_PX = 96
TILE_PICTURE_PX = 224
_KEPT_LOOKS = 64
_NUM_NEIGHBOURS = 8


@contextmanager
def stage(uri: str) -> Iterator[LocalSlide]:
    """The slide's file on this disk; of one at `s3://` of JPEG tiles, what is looked at is fetched by ranges.

    Raises SlideError alone.
    """
    with at_hand(SlideTask(SlideId("viewed"), uri), None) as slide:
        yield LocalSlide(slide.path, slide.ranged)


class SlideAnswers:
    """Answers about slides. For many threads; every method raises SlideError, StorageError and InputError."""

    def __init__(self, source: Source, pool: ReaderPool) -> None:
        self.source, self.pool = source, pool
        self._looks: Recent[tuple[str, str], BagLook] = Recent(self._look, _KEPT_LOOKS)

    def row(self, slide_id: str) -> WorklistRow:
        """Raises NotFoundError for a slide that is not listed: nothing else of it is ever looked at."""
        row = self.source.worklist.by_id.get(slide_id)
        if row is None:
            raise NotFoundError("there is no such slide here")
        return row

    def facts(self, slide_id: str) -> dict[str, Any]:
        """What the page needs before it draws: from the lists, and the head of the feature file."""
        row = self.row(slide_id)
        facts: dict[str, Any] = {
            "row": row_facts(row),
            "members": self.source.members_of(slide_id),
            "models": [choice._asdict() for choice in self.source.models_of(slide_id)],
            "mining": [choice._asdict() for choice in self.source.mining_of(slide_id)],
            "uri": self.source.uri_of(slide_id),
        }
        entry = self.source.entries.get(SlideId(slide_id))
        if entry is not None:
            reading = entry.reading
            facts["mpp"] = [reading.mpp.x, reading.mpp.y] if reading.mpp.x and reading.mpp.y else None
            facts["mpp_source"] = reading.mpp.source
            facts["num_bad_tiles"] = entry.num_bad_tiles
        return facts

    def picture_facts(self, slide_id: str) -> dict[str, Any]:
        """The scan: its size and levels; where its file cannot be opened, why, and the size that its features state."""
        self.row(slide_id)
        stated = self._stated_size(slide_id)
        try:
            with self._slide(slide_id) as slide:
                size, info = slide.size_l0_px, slide.reader.info()
                facts: dict[str, Any] = {
                    "has_file": True,
                    "decoder": slide.reader.decoder,
                    "vendor": info.vendor,
                    "file_mpp": [info.mpp_x, info.mpp_y],
                    "num_levels": len(info.levels),
                }
        except (SlideError, StorageError) as error:
            if not stated:
                raise
            size, facts = stated, {"has_file": False, "why": _why(error)}
        if facts["has_file"] and stated and stated != size:
            facts["why"] = (
                f"the file has {size[0]} × {size[1]} pixels, and its features are of one with {stated[0]} × "
                f"{stated[1]}: this is another file, and nothing drawn over it is in its place"
            )
        return facts | {"width": size[0], "height": size[1], "max_level": max_level(*size)}

    def tile(self, slide_id: str, level: int, column: int, row: int) -> bytes:
        """A square of the slide as a JPEG; white where the slide's file is not there. Raises NotFoundError."""
        self.row(slide_id)
        try:
            with self._slide(slide_id) as slide:
                region = _region(slide.size_l0_px, level, column, row)
                # a file without a pyramid is read whole once; a tile of a fine level does not wait for that
                scale = (region.right - region.left) / region.width_px
                is_coarse = scale >= _overview_downsample(slide.size_l0_px) * 0.99
                overview = slide.overview if is_coarse else Overview(np.empty((0, 0, 3), np.uint8), math.inf)
                return encode_jpeg(draw_region(slide.reader, overview, region))
        except (SlideError, StorageError):
            stated = self._stated_size(slide_id)
            if not stated:
                raise
            region = _region(stated, level, column, row)
            return encode_jpeg(np.full((region.height_px, region.width_px, 3), 255, np.uint8))

    def thumbnail(self, slide_id: str) -> bytes:
        """A JPEG of 96 pixels at most, the whole slide."""
        self.row(slide_id)
        self._check_near(slide_id)
        with self._slide(slide_id) as slide:
            picture = Image.fromarray(slide.thumbnail(THUMBNAIL_PX * 2).pixels)
        picture.thumbnail((THUMBNAIL_PX * 2, THUMBNAIL_PX * 2))
        return encode_jpeg(np.asarray(picture))

    def outline(self, slide_id: str) -> dict[str, Any]:
        """The tissue's outline as rings of level-0 pixels."""
        self.row(slide_id)
        spec, mpp = self.source.spec(), self._mpp(slide_id)
        if spec is None or mpp is None:
            return {"rings": [], "why": "another tool found the tissue"}
        with self._slide(slide_id) as slide:
            outline = outline_of(slide.reader, mpp, spec)
        if outline is None:
            return {"rings": [], "why": "a file of the user's says what is tissue"}
        return {"rings": [np.rint(ring).astype(int).tolist() for ring in outline.rings], "mm2": outline.tissue_mm2}

    def places(self, slide_id: str) -> bytes:
        """Every tile's place, and its share of tissue."""
        self.row(slide_id)
        table = self.source.table(slide_id)
        _check_places(table)
        facts = {"tile_size": list(table.metadata["tile_size_l0_px"]), "num": len(table.features)}
        arrays = {"xy": table.coords_l0_px, "tissue": np.nan_to_num(table.tissue_share, nan=-1.0)}
        return pack(facts, arrays)

    def heat(self, slide_id: str, model: str) -> bytes:
        """Each tile's attention by a model, or as it was kept; of a bag of several slides this slide's part."""
        self.row(slide_id)
        in_bag = self.source.in_bag(slide_id)
        if model.startswith("kept"):
            kept = self.source.kept_attention(slide_id)
            if model not in kept:
                raise InputError("no attention was kept of this slide")
            if len(kept[model]) != len(in_bag.table.features):
                raise InputError("the attention that was kept is of other tiles than the features are")
            return pack({"num_in_bag": len(in_bag.features_NF)}, {"attention": kept[model]})
        look = self._looks.get((slide_id, model))
        facts = {"outputs": look.outputs.tolist(), "num_in_bag": len(in_bag.features_NF)}
        return pack(facts, {"attention": look.attention_N[in_bag.rows].astype(np.float32)})

    def tile_facts(self, slide_id: str, index: int, model: str) -> dict[str, Any]:
        """One tile: its attention, evidence, and the prediction of the bag with and without it."""
        self.row(slide_id)
        in_bag = self.source.in_bag(slide_id)
        table = in_bag.table
        if not 0 <= index < len(table.features):
            raise NotFoundError("there is no such tile")
        facts: dict[str, Any] = {
            "index": index,
            "xy": table.coords_l0_px[index].tolist(),
            "columns": _columns(table, index),
            "num_in_bag": len(in_bag.features_NF),
        }
        if not model or model.startswith("kept"):
            return facts
        look, voter, place = self._looks.get((slide_id, model)), self.source.voter(model), in_bag.start + index
        layout = layout_in_bag(voter.model, in_bag.features_NF, in_bag.places)
        without = outputs_without(voter, in_bag.features_NF, [place], layout)
        facts["attention"] = float(look.attention_N[place])
        facts["outputs"] = look.outputs.tolist()
        facts["outputs_without"] = None if without is None else without.tolist()
        if look.evidence_NC is not None:
            # of several thousand tiles each holds a small share: how it stands among them says more
            evidence_NC = look.evidence_NC
            facts["evidence"] = evidence_NC[place].tolist()
            facts["evidence_rank"] = (evidence_NC <= evidence_NC[place]).mean(axis=0).tolist()
        return facts

    def tile_picture(self, slide_id: str, index: int) -> bytes:
        """The tile as a JPEG, from the scan."""
        self.row(slide_id)
        table = self.source.table(slide_id)
        _check_places(table)
        if not 0 <= index < len(table.features):
            raise NotFoundError("there is no such tile")
        x, y = table.coords_l0_px[index].tolist()
        width, height = table.metadata["tile_size_l0_px"]
        region = Region(x, y, x + width, y + height, min(width, TILE_PICTURE_PX), min(height, TILE_PICTURE_PX))
        self._check_near(slide_id)
        with self._slide(slide_id) as slide:
            overview = Overview(np.empty((0, 0, 3), np.uint8), math.inf)
            return encode_jpeg(draw_region(slide.reader, overview, region))

    def sample(self) -> TileSample:
        """The tiles among which neighbours are looked for."""
        lengths = self.source.lengths()
        listed = self.source.worklist.by_id.keys()

        def read(slide_id: SlideId) -> np.ndarray | None:
            try:
                return self.source.read_features(slide_id)
            except MhimError:
                return None

        return draw_sample({key: num for key, num in lengths.items() if key in listed}, read)

    def neighbours(self, slide_id: str, index: int, sample: TileSample) -> dict[str, Any]:
        """The tiles of the sample that are most alike."""
        self.row(slide_id)
        table = self.source.table(slide_id)
        if not 0 <= index < len(table.features):
            raise NotFoundError("there is no such tile")
        found = nearest_tiles(sample, table.features[index], _NUM_NEIGHBOURS, (slide_id, index))
        return {
            "neighbours": [
                neighbour._asdict() | {"label": self.source.worklist.by_id[neighbour.slide_id].label}
                for neighbour in found
            ],
            "num_sampled": len(sample.row_S),
            "num_sampled_slides": len(sample.slide_ids),
            "num_tiles": sample.num_tiles,
            "num_slides": sample.num_slides,
            "left_out": sample.left_out,
        }

    def mined(self, slide_id: str, seed: int, fold: int, epoch: int, teacher: str) -> bytes:
        """Each tile's fate in an epoch, and the teacher's score."""
        self.row(slide_id)
        found = self.source.mined(slide_id, seed, fold, epoch, teacher)
        fate_N, score_N = found.bag.fate_N[found.rows], found.bag.score_N[found.rows]
        counts = {fate.name: int((fate_N == fate).sum()) for fate in TileFate}
        facts = {"counts": counts, "notes": list(found.notes), "high_ratio": found.bag.high_ratio}
        return pack(facts, {"fate": fate_N, "score": np.nan_to_num(score_N, nan=0.0)})

    def _look(self, key: tuple[str, str]) -> BagLook:
        slide_id, model = key
        voter, in_bag = self.source.voter(model), self.source.in_bag(slide_id)
        layout = layout_in_bag(voter.model, in_bag.features_NF, in_bag.places)
        return look_at_bag(voter, in_bag.features_NF, layout)

    def _slide(self, slide_id: str) -> Any:
        uri, row = self.source.uri_of(slide_id), self.row(slide_id)
        if row.reason in (FailureReason.DECODER_CRASH, FailureReason.TIMEOUT):
            # decoders are children in embed, and here threads: what killed a child would end the viewer
            raise SlideError(FailureReason(row.reason), "it is not opened here, since a decoder died or hung on it")
        if not uri:
            raise SlideError(FailureReason.NOT_FOUND, "nobody says where the slide's file is; cohort= can")
        return self.pool.slide(uri)

    def _check_near(self, slide_id: str) -> None:
        """A small picture is not worth a whole slide: one at `s3://` has it once somebody has opened the slide."""
        uri = self.source.uri_of(slide_id)
        if "://" in uri and not self.pool.is_open(uri):
            raise SlideError(FailureReason.STORAGE, "the slide lies elsewhere, and is fetched when it is opened")

    def _mpp(self, slide_id: str) -> MppUsed | None:
        entry = self.source.entries.get(SlideId(slide_id))
        return entry.reading.mpp if entry is not None and entry.reading.mpp.x else None

    def _stated_size(self, slide_id: str) -> tuple[int, int] | None:
        """By the slide's features; without tiles or a stated size None."""
        try:
            facts = self.source.table(slide_id).metadata
        except InputError:
            return None
        size = (int(facts["width_l0_px"]), int(facts["height_l0_px"]))
        if all(size):
            return size
        table = self.source.table(slide_id)
        if not has_places(table.coords_l0_px) or not all(facts["tile_size_l0_px"]):
            return None
        reach = table.coords_l0_px.max(axis=0) + np.asarray(facts["tile_size_l0_px"])
        return int(reach[0]), int(reach[1])


def row_facts(row: WorklistRow) -> dict[str, Any]:
    """A row as a page shows it."""
    return {
        "slide_id": row.slide_id,
        "patient_id": row.patient_id,
        "site": row.site,
        "status": str(row.status),
        "label": row.label,
        "predicted": row.predicted,
        "values": row.values,
        "spread": row.spread,
        "error": row.error,
        "right": row.right,
        "num_models": row.num_models,
        "folds": row.folds,
        "num_tiles": row.num_tiles,
        "reason": row.reason,
        "message": row.message,
        "slide_ids": row.slide_ids,
    }


def task_facts(source: Source) -> dict[str, Any] | None:
    """What is predicted."""
    if source.task is None:
        return None
    return {"kind": str(source.task.kind), "classes": source.task.classes, "unit": source.unit}


def _region(size_l0_px: tuple[int, int], level: int, column: int, row: int) -> Region:
    region = tile_region(size_l0_px, level, column, row)
    if region is None:
        raise NotFoundError("there is no such part of the slide")
    return region


def _overview_downsample(size_l0_px: tuple[int, int]) -> float:
    return max(1.0, max(size_l0_px) / OVERVIEW_PX)


def _check_places(table: FeatureTable) -> None:
    if not has_places(table.coords_l0_px):
        raise InputError("its features were imported without coordinates: where its tiles are is not known")
    if not all(table.metadata["tile_size_l0_px"]):
        raise InputError("its features were imported without the size of a tile (tile_size_l0_px= of mhim import)")


def _columns(table: FeatureTable, index: int) -> dict[str, Any]:
    """What the store knows of a tile beside its features."""
    values: dict[str, Any] = {"tissue_share": float(table.tissue_share[index])}
    values |= {"background_share": float(table.background_share[index])}
    for name, column in table.columns.items():
        values[name] = column[index].item() if hasattr(column[index], "item") else column[index]
    return {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}


def _why(error: Exception) -> str:
    return one_line(str(error))
