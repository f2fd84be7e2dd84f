"""What is looked at: slides, features, predictions and models of a run, of predictions or of a store."""

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from mhim_core.errors import InputError, NotFoundError
from mhim_core.slides.spec import TileSpec, stored_spec
from mhim_core.storage import Storage
from mhim_core.store.attention import decode_attention
from mhim_core.store.bags import ParquetBags
from mhim_core.store.record import CommitRecord
from mhim_core.store.schema import FeatureTable
from mhim_core.task import Task
from mhim_core.types import IMPORTED, BagId, SlideId, Status
from mhim_core.view.worklist import Worklist

if TYPE_CHECKING:
    from mhim_core.train.inference import Voter
    from mhim_core.view.mined import MinedBag

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_KEPT_BAGS, _KEPT_MODELS = 4, 12


class Recent(Generic[Key, Value]):
    """The most recently asked-for values, each made once; for many threads."""

    def __init__(self, make: Callable[[Key], Value], most: int) -> None:
        self._make, self._most = make, most
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value:
        """Made now, or kept. Two threads may make the same value at once; one of both is kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = self._make(key)
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


class SlideInBag(NamedTuple):
    """A slide's tiles among those of its bag."""

    table: FeatureTable
    """The slide's own."""
    features_NF: np.ndarray
    """float16 (N, F) of the whole bag."""
    start: int
    """Where the slide's rows begin in it."""
    slide_ids: tuple[str, ...]
    """Of the bag, in its order."""
    places: tuple[np.ndarray, ...]
    """x and y of the tiles of each of these slides."""

    @property
    def rows(self) -> slice:
        """The slide's rows of the bag's."""
        return slice(self.start, self.start + len(self.table.features))


class ModelChoice(NamedTuple):
    """A model whose view of a slide can be shown."""

    key: str
    title: str
    fold: int | None
    seed: int | None
    role: str
    """student | teacher | plain | kept (the attention that was stored with the prediction)."""
    relation: str
    """held_out | validation | train | new: what the model knows of the slide; empty: not known."""


class MiningChoice(NamedTuple):
    """A fit of the student, with which a slide's masks can be computed again."""

    seed: int
    fold: int
    num_epochs: int
    best_epoch: int
    """From 1 on."""
    relation: str
    """As of a model: on slides that it was not trained on the masks are what they would have been."""


class MinedSlide(NamedTuple):
    """What `mine_bag` finds, of one slide of the bag."""

    bag: "MinedBag"
    rows: slice
    notes: tuple[str, ...]
    """What a reader must know, a sentence each."""


class Source(ABC):
    """What is looked at. For many threads."""

    title: str
    kind: str
    """run | predictions | store."""
    task: Task | None
    unit: str
    """What a bag is: slide or patient."""
    worklist: Worklist
    storage: Storage
    """Where attention is kept, and annotations lie beside."""
    notes: Sequence[str] = ()
    """What a reader must know of the whole, a sentence each."""

    def __init__(
        self, features: Storage, entries: Mapping[SlideId, CommitRecord], tiling: Mapping[str, object]
    ) -> None:
        self.features, self.entries, self.tiling = features, entries, tiling
        with_tiles = {key: entry for key, entry in entries.items() if entry.status is Status.OK}
        self._bags = ParquetBags(features, with_tiles) if with_tiles else None
        self._in_bags: Recent[str, SlideInBag] = Recent(self._read_bag, _KEPT_BAGS)

    @abstractmethod
    def uri_of(self, slide_id: str) -> str:
        """Where the slide's file is: a path or an `s3://` URI; empty: nobody says."""

    @abstractmethod
    def members_of(self, slide_id: str) -> tuple[str, ...]:
        """The slides of the bag that the slide belongs to, in their order."""

    def models_of(self, slide_id: str) -> list[ModelChoice]:
        """The models that can be shown, the best one first."""
        return []

    def voter(self, key: str) -> "Voter":
        """The model of a choice. Raises InputError where there is none of that key."""
        raise InputError(f"there is no model {key}")

    def kept_attention(self, slide_id: str) -> Mapping[str, np.ndarray]:
        """The attention stored with the prediction, by name (`kept`, and of a pair each); empty: none is."""
        return {}

    def mining_of(self, slide_id: str) -> list[MiningChoice]:
        """The fits with which the slide's masks can be computed again."""
        return []

    def mined(self, slide_id: str, seed: int, fold: int, epoch: int, teacher: str) -> MinedSlide:
        """The masks of an epoch (from 1 on) by the stage-1 or the chosen teacher. Raises InputError."""
        raise InputError("there are no models that were trained with masks")

    def spec(self) -> TileSpec | None:
        """How the tiles were cut; None: by another tool."""
        return None if IMPORTED in self.tiling else stored_spec(self.tiling, "the slides")

    def in_bag(self, slide_id: str) -> SlideInBag:
        """The slide's features, and those of its bag. Raises InputError where it has no tiles, IntegrityError."""
        return self._in_bags.get(slide_id)

    def table(self, slide_id: str) -> FeatureTable:
        """The slide's features."""
        return self.in_bag(slide_id).table

    def lengths(self) -> dict[SlideId, int]:
        """Tiles by slide."""
        return {} if self._bags is None else {SlideId(key): num for key, num in self._bags.lengths().items()}

    def read_features(self, slide_id: SlideId) -> np.ndarray:
        """float16 (N, F), past what is kept. Raises IntegrityError, StorageError."""
        assert self._bags is not None
        return self._bags.read_table(BagId(slide_id)).features

    def _read_bag(self, slide_id: str) -> SlideInBag:
        entry = self.entries.get(SlideId(slide_id))
        if entry is None or entry.status is not Status.OK or self._bags is None:
            why = "it has no tissue" if entry is not None else "it is not embedded in the store"
            raise InputError(f"there are no tiles of slide {slide_id}: {why}")
        members = self.members_of(slide_id)
        tables = [self._bags.read_table(BagId(member)) for member in members]
        place = members.index(slide_id)
        parts = [table.features for table in tables]
        features = parts[0] if len(parts) == 1 else np.concatenate(parts)
        places = tuple(table.coords_l0_px for table in tables)
        return SlideInBag(tables[place], features, sum(map(len, parts[:place])), members, places)


def read_kept_attention(storage: Storage, key: str) -> Mapping[str, np.ndarray]:
    """The columns of an attention file by name; empty where there is none. Raises IntegrityError, StorageError."""
    try:
        table = decode_attention(storage.get(key))
    except NotFoundError:
        return {}
    return {"kept": table.attention, **{f"kept-{name}": values for name, values in table.parts.items()}}


def kept_models() -> int:
    """How many models stay in memory."""
    return _KEPT_MODELS
