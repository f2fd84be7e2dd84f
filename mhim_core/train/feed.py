"""Bags on their way from a source into the step: checked once, in the fit's precision, on the worker's device.

What is stored as float16 stays so until it is where the step needs it: half the bytes to subsample, to copy to a GPU
and to hold. Turning float16 into float32 or float64 is exact, wherever and whenever it happens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

from mhim_core.bags import BagSource, HalfBags, PlacedBags
from mhim_core.errors import ConfigError, IntegrityError
from mhim_core.mil.draws import Draws
from mhim_core.mil.large_bags import is_large
from mhim_core.mil.layout import TREE_BESIDE, Layout
from mhim_core.store.schema import all_finite
from mhim_core.task import ClassTarget, FittedTask
from mhim_core.train.objective import class_weights, make_label
from mhim_core.train.plan import LabelledBag
from mhim_core.train.sampler import Sampled
from mhim_core.train.state import FitSetup
from mhim_core.train.step import Bag
from mhim_core.types import BagId

Turn = TypeVar("Turn")
Ready = TypeVar("Ready")


class Fetched(NamedTuple):
    """What a thread has read of a bag."""

    features: torch.Tensor
    layout: Layout | None
    """Of these features' rows; None: the aggregator asks for none."""


class BagFeed:
    """Reads bags for one fit. Caching is the source's matter."""

    def __init__(self, source: BagSource, setup: FitSetup, device: torch.device) -> None:
        self._source, self._setup, self._device = source, setup, device
        self._read = source.read_half if isinstance(source, HalfBags) else source.read
        self._weights = None
        if setup.fit.class_weights:
            self._weights = class_weights([bag.target for bag in setup.train], setup.task.num_outputs)
        self._lengths = source.lengths()
        self._checked: set[BagId] = set()

    @property
    def task(self) -> FittedTask:
        return self._setup.task

    @property
    def dtype(self) -> torch.dtype:
        return self._setup.dtype

    def require(self, bags: Sequence[LabelledBag]) -> None:
        """Raises ConfigError before any work if a bag is absent, empty, or has other features than planned."""
        if self._source.dim != self._setup.d_in:
            raise ConfigError(f"the bags have {self._source.dim} features per tile, the plan says {self._setup.d_in}")
        if self._setup.model.needs_places and not isinstance(self._source, PlacedBags):
            raise ConfigError(
                f"aggregator={self._setup.model.aggregator} needs the places of a bag's instances, and "
                f"{type(self._source).__name__} has none"
            )
        missing = sorted(bag.bag_id for bag in bags if self._lengths.get(bag.bag_id, 0) < 1)
        if missing:
            raise ConfigError(
                f"{len(missing)} bags are absent or empty, so they can be neither trained on nor validated: "
                f"{', '.join(missing[:10])}"
            )

    def read(self, labelled: LabelledBag) -> Bag:
        """The full bag. Raises IntegrityError, naming it, if its features are not finite or of another shape."""
        return self._bag(labelled, labelled.bag_id, self._fetched(labelled.bag_id))

    def draw(self, turn: Sampled, epoch: int) -> Bag:
        """The bag for one training step: where it is large, a subsample by (seed, epoch, bag), in the bag's order."""
        return self._bag(turn.bag, turn.draw_id, self._drawn(turn, epoch))

    def read_ahead(self, bags: Sequence[LabelledBag]) -> Iterator[Bag]:
        """`read` of each, the next one fetched while the caller works on this one."""
        for labelled, fetched in zip(bags, one_ahead(bags, lambda bag: self._fetched(bag.bag_id)), strict=True):
            yield self._bag(labelled, labelled.bag_id, fetched)

    def draw_ahead(self, shares: Sequence[Sequence[Sampled]], epoch: int) -> Iterator[list[Bag]]:
        """`draw` of each turn of each share, the next share fetched while the caller works on this one."""
        fetched = one_ahead(shares, lambda turns: [self._drawn(turn, epoch) for turn in turns])
        for turns, parts in zip(shares, fetched, strict=True):
            # not in the thread: what that frees is given back to the kernel (`allocation`)
            yield [self._bag(turn.bag, turn.draw_id, part) for turn, part in zip(turns, parts, strict=True)]

    def _drawn(self, turn: Sampled, epoch: int) -> Fetched:
        features, layout = self._fetched(turn.bag.bag_id)
        most = self._setup.fit.max_instances
        if 0 < most < len(features):
            draws = Draws(self._setup.seed, epoch, turn.draw_id)
            drawn = draws.sample("subsample", len(features), most, features.device)
            rows = drawn.sort().values
            features = features.index_select(0, rows)
            layout = None if layout is None else layout.select(rows.to(layout.parent_N.device))
        return Fetched(features, layout)

    def _bag(self, labelled: LabelledBag, draw_id: BagId, fetched: Fetched) -> Bag:
        features, layout = fetched
        weight = 1.0
        if self._weights is not None and isinstance(labelled.target, ClassTarget):
            weight = self._weights[labelled.target.class_index]
        label = make_label(labelled.target, self._setup.task, self._setup.dtype, self._device, weight)
        # a large bag stays as small as it is stored: the model takes it into its precision a chunk at a time
        dtype = features.dtype if is_large(len(features)) else self._setup.dtype
        # two calls: one would turn them into the larger numbers first and copy these to the device
        layout = None if layout is None else layout.to(self._device)
        return Bag(draw_id, label, features.to(self._device).to(dtype), layout)

    def _fetched(self, bag_id: BagId) -> Fetched:
        features = self._features(bag_id)
        if not self._setup.model.needs_places:
            return Fetched(features, None)
        assert isinstance(self._source, PlacedBags)  # `require` has seen to it
        layout = Layout.of_arrays(self._source.read_beside(bag_id, TREE_BESIDE))
        if layout.num != len(features):
            raise IntegrityError(f"bag {bag_id}: places of {layout.num} instances beside features of {len(features)}")
        return Fetched(features, layout)

    def _features(self, bag_id: BagId) -> torch.Tensor:
        features = self._read(bag_id)
        if bag_id not in self._checked:
            if features.ndim != 2 or len(features) < 1 or features.shape[1] != self._source.dim:
                raise IntegrityError(
                    f"bag {bag_id}: features of shape {tuple(features.shape)}, "
                    f"expected at least one row of {self._source.dim}"
                )
            if not _is_finite(features):
                raise IntegrityError(f"bag {bag_id}: features are NaN or infinite")
            self._checked.add(bag_id)
        return features


def _is_finite(features: torch.Tensor) -> bool:
    if features.device.type == "cpu" and features.dtype == torch.float16:
        return all_finite(features.numpy())  # eight times as fast
    return bool(torch.isfinite(features).all())


def one_ahead(turns: Iterable[Turn], prepare: Callable[[Turn], Ready]) -> Iterator[Ready]:
    """`prepare` of every turn in order, that of the next in a thread while the caller works on this one.

    What it raises is raised when its turn has come.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mhim-feed") as thread:
        coming = None
        for turn in turns:
            ready, coming = coming, thread.submit(prepare, turn)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
