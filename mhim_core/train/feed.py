"""Bags on their way from a source into the step: checked once, in the fit's precision, on the worker's device."""

from collections.abc import Sequence

import torch

from mhim_core.bags import BagSource, HalfBags
from mhim_core.errors import ConfigError, IntegrityError
from mhim_core.mil.draws import Draws
from mhim_core.mil.large_bags import is_large
from mhim_core.task import ClassTarget, FittedTask
from mhim_core.train.objective import class_weights, make_label
from mhim_core.train.plan import LabelledBag
from mhim_core.train.sampler import Sampled
from mhim_core.train.state import FitSetup
from mhim_core.train.step import Bag
from mhim_core.types import BagId


class BagFeed:
    """Reads bags for one fit. Caching is the source's matter."""

    def __init__(self, source: BagSource, setup: FitSetup, device: torch.device) -> None:
        self._source, self._setup, self._device = source, setup, device
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
        missing = sorted(bag.bag_id for bag in bags if self._lengths.get(bag.bag_id, 0) < 1)
        if missing:
            raise ConfigError(
                f"{len(missing)} bags are absent or empty, so they can be neither trained on nor validated: "
                f"{', '.join(missing[:10])}"
            )

    def read(self, labelled: LabelledBag) -> Bag:
        """The full bag. Raises IntegrityError, naming it, if its features are not finite or of another shape."""
        return self._bag(labelled, labelled.bag_id, self._features(labelled.bag_id))

    def draw(self, turn: Sampled, epoch: int) -> Bag:
        """The bag for one training step: where it is large, a subsample by (seed, epoch, bag), in the bag's order."""
        features = self._features(turn.bag.bag_id)
        most = self._setup.fit.max_instances
        if 0 < most < len(features):
            draws = Draws(self._setup.seed, epoch, turn.draw_id)
            drawn = draws.sample("subsample", len(features), most, features.device)
            features = features.index_select(0, drawn.sort().values)
        return self._bag(turn.bag, turn.draw_id, features)

    def _bag(self, labelled: LabelledBag, draw_id: BagId, features: torch.Tensor) -> Bag:
        weight = 1.0
        if self._weights is not None and isinstance(labelled.target, ClassTarget):
            weight = self._weights[labelled.target.class_index]
        label = make_label(labelled.target, self._setup.task, self._setup.dtype, self._device, weight)
        # a large bag stays as small as it is stored: the model takes it into its precision a chunk at a time
        dtype = features.dtype if is_large(len(features)) else self._setup.dtype
        return Bag(draw_id, label, features.to(self._device, dtype))

    def _features(self, bag_id: BagId) -> torch.Tensor:
        source = self._source
        if is_large(self._lengths.get(bag_id, 0)) and isinstance(source, HalfBags):
            features = source.read_half(bag_id)
        else:
            features = source.read(bag_id)
        if bag_id not in self._checked:
            if features.ndim != 2 or len(features) < 1 or features.shape[1] != self._source.dim:
                raise IntegrityError(
                    f"bag {bag_id}: features of shape {tuple(features.shape)}, "
                    f"expected at least one row of {self._source.dim}"
                )
            if not torch.isfinite(features).all():
                raise IntegrityError(f"bag {bag_id}: features are NaN or infinite")
            self._checked.add(bag_id)
        return features
