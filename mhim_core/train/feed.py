"""Bags on their way from a source into the step: checked once, in the fit's precision, on the worker's device."""

from collections.abc import Sequence

import torch

from mhim_core.bags import BagSource
from mhim_core.errors import ConfigError, IntegrityError
from mhim_core.train.plan import LabelledBag
from mhim_core.train.step import Bag
from mhim_core.types import BagId


class BagFeed:
    """Reads bags for one command. Caching is the source's matter."""

    def __init__(self, source: BagSource, num_classes: int, dtype: torch.dtype, device: torch.device) -> None:
        self.num_classes, self.dtype = num_classes, dtype
        self._source, self._device = source, device
        self._labels = [torch.tensor(index, device=device) for index in range(num_classes)]
        self._checked: set[BagId] = set()

    def require(self, bags: Sequence[LabelledBag], d_in: int) -> None:
        """Raises ConfigError before any work if a bag is absent, empty, or has other features than planned."""
        if self._source.dim != d_in:
            raise ConfigError(f"the bags have {self._source.dim} features per tile, the plan says {d_in}")
        lengths = self._source.lengths()
        missing = sorted(bag.bag_id for bag in bags if lengths.get(bag.bag_id, 0) < 1)
        if missing:
            raise ConfigError(
                f"{len(missing)} bags are absent or empty, so they can be neither trained on nor validated: "
                f"{', '.join(missing[:10])}"
            )

    def read(self, labelled: LabelledBag) -> Bag:
        """One bag. Raises IntegrityError, naming it, if its features are not finite or not of the promised shape."""
        features = self._source.read(labelled.bag_id)
        if labelled.bag_id not in self._checked:
            if features.ndim != 2 or len(features) < 1 or features.shape[1] != self._source.dim:
                raise IntegrityError(
                    f"bag {labelled.bag_id}: features of shape {tuple(features.shape)}, "
                    f"expected at least one row of {self._source.dim}"
                )
            if not torch.isfinite(features).all():
                raise IntegrityError(f"bag {labelled.bag_id}: features are NaN or infinite")
            self._checked.add(labelled.bag_id)
        x_NF = features.to(self._device, self.dtype)
        return Bag(labelled.bag_id, self._labels[labelled.label_index], x_NF)
