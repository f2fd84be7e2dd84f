"""A bag about which finished models can be asked again, with some of its tiles alone.

Shapes: n of the N instances of a bag, K numbers of a prediction, D of an embedded instance.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mhim_core.store.schema import FeatureTable
from mhim_core.task import TaskKind
from mhim_core.train.inference import BagPrediction, Voter, bag_layout, fixed_threads, predict_tables


class AskedBag:
    """All tiles of a bag, its slides one after another, and the models that predict it together."""

    def __init__(self, tables: Sequence[FeatureTable], voters: Sequence[Voter], output: int | None = None) -> None:
        """`output`: which number of the prediction is the score; None: of a classification that of the class that is
        predicted from all tiles, else the only one."""
        self._voters = tuple(voters)
        # one table in place of the bag's several: what is taken away is taken from all of them
        parts = [table.features for table in tables]
        self._whole = tables[0]._replace(features=parts[0] if len(parts) == 1 else np.concatenate(parts))
        self._layout = bag_layout(tables, self._voters)
        self.prediction = predict_tables([self._whole], self._voters, self._layout)
        self._output = _shown(self.prediction, self._voters[0].task.kind) if output is None else output

    def __len__(self) -> int:
        return len(self._whole.features)

    def predict(self, rows: np.ndarray) -> BagPrediction:
        """From these rows alone, ascending, one at least."""
        layout = None if self._layout is None else self._layout.select(torch.from_numpy(rows))
        return predict_tables([self._whole._replace(features=self._whole.features[rows])], self._voters, layout)

    def attention(self, rows: np.ndarray) -> np.ndarray:
        """float32 (n,), the mean over the models."""
        return self.predict(rows).attention[0]

    def score(self, rows: np.ndarray) -> float:
        """The probability of the class, the risk, or the number, the mean over the models."""
        return float(self.predict(rows).outputs[self._output])

    @torch.no_grad()
    def embedded(self, rows: np.ndarray) -> np.ndarray:
        """float64 (n, D): the tiles as the first model's aggregator sees them."""
        model = self._voters[0].model
        x_nF = torch.from_numpy(self._whole.features[rows]).to(model.embed.weight.device)
        with fixed_threads():
            return np.asarray(model.embed_instances(x_nF).double().cpu().numpy())


def _shown(prediction: BagPrediction, kind: TaskKind) -> int:
    return int(prediction.outputs.argmax()) if kind is TaskKind.classification else 0
