"""Committed feature files as bags: every read from the store is verified; what was read stays on the node's disk, or in
memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mhim_core.bags import BagReads, Beside
from mhim_core.errors import InputError, IntegrityError, NotFoundError
from mhim_core.features import has_places
from mhim_core.storage import Storage
from mhim_core.store.bag_cache import BagCache, BagFile
from mhim_core.store.record import CommitRecord
from mhim_core.store.schema import FeatureTable, decode_features
from mhim_core.types import BagId, SlideId, Status

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


_REMEDY = "`mhim store repair deep=true` makes it again"


class ParquetBags:
    """A `BagSource` over a manifest's entries: one bag per slide that has tiles, empty slides left out.

    `disk` keeps them on this node's disk. `cache_gib` bounds the float16 features kept in memory (0: none are): what
    was read first stays, since of bags read in turns, epoch by epoch, the oldest is the next one needed. What the disk
    gives is not kept in memory as well. Raises InputError if no slide has tiles or their features differ in length.
    """

    def __init__(
        self,
        storage: Storage,
        entries: Mapping[SlideId, CommitRecord],
        cache_gib: float = 0.0,
        disk: BagCache | None = None,
    ) -> None:
        self.storage = storage
        self._entries = {BagId(key): entries[key] for key in sorted(entries) if entries[key].status is Status.OK}
        dims = sorted({record.dim for record in self._entries.values()})
        if len(dims) != 1:
            present = f"features of lengths {dims}" if dims else f"{len(entries)} slides, none with tiles"
            raise InputError(f"{storage.uri}: {present}; bags need one length")
        self._dim = dims[0]
        self._cache_bytes = int(cache_gib * 2**30)
        self._forget()
        self._disk = disk

    @property
    def dim(self) -> int:
        return self._dim

    def lengths(self) -> dict[BagId, int]:
        """The number of instances of every bag, sorted by id; from the manifest, no file is opened."""
        return {bag_id: record.num_tiles for bag_id, record in self._entries.items()}

    def read(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """One bag as float32, tiles in row-major order, a fresh tensor each time.

        Raises IntegrityError naming the slide if the file is missing or not what was committed; KeyError.
        """
        return self.read_half(bag_id).to(torch.float32)

    def read_half(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """The same as float16, as it is stored: the cache's own copy, which must not be changed. Raises as `read`."""
        with self._lock:
            features = self._cache.get(bag_id)
            if features is not None:
                self._reads += BagReads(memory=1)
        if features is None:
            features = self._fetch(bag_id)
        return torch.from_numpy(features)

    @property
    def reads(self) -> BagReads:
        """How often each place was read, and what is kept now."""
        with self._lock:
            written = 0 if self._disk is None else self._disk.num_written_bytes
            return self._reads + BagReads(memory_bytes=self._cached_bytes, disk_bytes=written)

    def forget(self, bag_id: BagId) -> None:
        """Keep it no longer in memory: whoever asked has put it elsewhere."""
        with self._lock:
            features = self._cache.pop(bag_id, None)
            self._cached_bytes -= 0 if features is None else features.nbytes

    def read_beside(self, bag_id: BagId, beside: Beside) -> list[np.ndarray]:
        """What is made of the slide's features and places, once: it is kept where features are, within their bounds.

        Raises InputError if the places of the slide's tiles are not known (features imported without coordinates), else
        as `read`.
        """
        with self._lock:
            array = self._beside.get((bag_id, beside.name))
        if array is not None:
            return [array]
        bag = _file_of(self._entries[bag_id], beside)

        def make() -> np.ndarray:
            table = self.read_table(bag_id)
            if not has_places(table.coords_l0_px):
                raise InputError(
                    f"slide {bag_id}: its features were imported without coordinates, and the aggregator needs them"
                )
            return np.ascontiguousarray(beside.make(table.features, table.coords_l0_px), np.int32)

        array = make() if self._disk is None else self._disk.read(bag, make)
        is_kept = self._disk is not None and self._disk.keeps(bag)
        with self._lock:
            is_new = (bag_id, beside.name) not in self._beside
            if is_new and not is_kept and self._cached_bytes + array.nbytes <= self._cache_bytes:
                self._cached_bytes += array.nbytes
                self._beside[bag_id, beside.name] = array
        return [array]

    def _fetch(self, bag_id: BagId) -> np.ndarray:
        is_stored = False

        def decode() -> np.ndarray:
            nonlocal is_stored
            is_stored = True
            return self.read_table(bag_id).features

        features = decode() if self._disk is None else self._disk.read(_file_of(self._entries[bag_id]), decode)
        is_kept = self._disk is not None and self._disk.keeps(_file_of(self._entries[bag_id]))
        with self._lock:
            self._reads += BagReads(store=1) if is_stored else BagReads(disk=1)
            if not is_kept and self._cached_bytes + features.nbytes <= self._cache_bytes:
                replaced = self._cache.get(bag_id)  # two threads may have read the same bag
                self._cached_bytes += features.nbytes - (replaced.nbytes if replaced is not None else 0)
                self._cache[bag_id] = features
        return features

    def read_table(self, bag_id: BagId) -> FeatureTable:
        """One slide's features with places, tissue shares and provenance, verified; never from the cache."""
        record = self._entries[bag_id]
        try:
            data = self.storage.get(record.key)
        except NotFoundError as error:
            raise IntegrityError(f"slide {bag_id}: its committed feature file is gone: {error}; {_REMEDY}") from error
        try:
            return decode_features(
                data,
                slide_id=record.slide_id,
                dim=record.dim,
                expect_sha256=record.sha256,
                num_tiles=record.num_tiles,
            )
        except IntegrityError as error:
            raise IntegrityError(f"{error}; {_REMEDY}") from error

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._cache: dict[BagId, np.ndarray] = {}
        self._beside: dict[tuple[BagId, str], np.ndarray] = {}
        self._cached_bytes = 0
        self._reads = BagReads()
        self._disk = None

    def __getstate__(self) -> dict[str, Any]:
        kept = ("storage", "_entries", "_dim", "_cache_bytes")  # another process starts without caches
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def bag_files(entries: Iterable[CommitRecord], beside: Sequence[Beside] = ()) -> list[BagFile]:
    """What the slides with tiles take as float16 arrays, and what is kept beside them."""
    records = [record for record in entries if record.status is Status.OK]
    return [_file_of(record, kind) for kind in (None, *beside) for record in records]


def _file_of(record: CommitRecord, beside: Beside | None = None) -> BagFile:
    if beside is None:
        return BagFile(record.sha256, (record.num_tiles, record.dim))
    return BagFile(record.sha256, (record.num_tiles, beside.width), beside.name)


class PatientBags:
    """A `BagSource` in which a bag is several slides' instances, one after another, such as all slides of a patient.

    `members`: the slides of each bag in their order. Raises InputError if one has no slide, or one without tiles.
    """

    def __init__(self, slides: ParquetBags, members: Mapping[BagId, Sequence[SlideId]]) -> None:
        self._slides = slides
        self._members = {bag_id: tuple(BagId(slide) for slide in members[bag_id]) for bag_id in sorted(members)}
        known = slides.lengths()
        for bag_id, own in self._members.items():
            absent = [slide for slide in own if slide not in known]
            if absent or not own:
                raise InputError(f"bag {bag_id}: no tiles of its slides {', '.join(absent[:10]) or '(it has none)'}")

    @property
    def dim(self) -> int:
        return self._slides.dim

    @property
    def reads(self) -> BagReads:
        """As `ParquetBags.reads`, in slides."""
        return self._slides.reads

    def forget(self, bag_id: BagId) -> None:
        """As `ParquetBags.forget`."""
        for slide in self._members[bag_id]:
            self._slides.forget(slide)

    def lengths(self) -> dict[BagId, int]:
        """The number of instances of every bag, sorted by id."""
        known = self._slides.lengths()
        return {bag_id: sum(known[slide] for slide in own) for bag_id, own in self._members.items()}

    def read(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """One bag as float32. Raises as `ParquetBags.read`."""
        return torch.cat([self._slides.read(slide) for slide in self._members[bag_id]])

    def read_half(self, bag_id: BagId) -> Float[Tensor, "N d_in"]:
        """As `ParquetBags.read_half`."""
        parts = [self._slides.read_half(slide) for slide in self._members[bag_id]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def read_beside(self, bag_id: BagId, beside: Beside) -> list[np.ndarray]:
        """As `ParquetBags.read_beside`, an array a slide."""
        return [array for slide in self._members[bag_id] for array in self._slides.read_beside(slide, beside)]

    def read_tables(self, bag_id: BagId) -> list[FeatureTable]:
        """Each slide of the bag with places and provenance, verified."""
        return [self._slides.read_table(slide) for slide in self._members[bag_id]]
