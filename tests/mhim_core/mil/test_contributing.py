"""CONTRIBUTING, "Adding an aggregator", followed to the letter: one file, and the aggregator is there and trains."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"

FOLLOWED = """
import sys
import mhim_core.mil.aggregators as aggregators
aggregators.__path__.append(sys.argv[1])  # where the new file lies, as if it were in the folder

from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, MhimOptions, ModelOptions
assert "torch" not in sys.modules, "--help reads the names"
assert "logsumexp" in AGGREGATOR_NAMES and "logsumexp" in MINING_AGGREGATORS

import torch
from mhim_core.mil.model import build_model
from mhim_core.task import ClassTarget, FittedTask, TaskKind
from mhim_core.train.context import SingleProcess
from mhim_core.train.objective import make_label
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId

task = FittedTask(kind=TaskKind.classification, classes=("a", "b"))
model = ModelOptions(aggregator="logsumexp", embed_dim=16)
mhim = MhimOptions(high_mask_ratio=0.3, random_mask_ratio=0.3)
model.require_mining()
for stage in Stage:
    bags = (LabelledBag(BagId("x"), ClassTarget(1)),)
    setup = FitSetup(stage=stage, seed=0, d_in=10, task=task, model=model, mhim=mhim, fit=FitOptions(), train=bags)
    own = mhim if stage is Stage.mhim else None
    student, teacher = (build_model(10, 2, model, own, seed=seed) for seed in ("student", "teacher"))
    state = TrainState.start(setup, student, teacher if own else None, torch.device("cpu"))
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    label = make_label(ClassTarget(1), task, torch.float32)
    train_step(state, [Bag(BagId("x"), label, torch.randn(30, 10))], 1, SingleProcess())
    moved = {name for name, value in student.named_parameters() if not torch.equal(value, before[name])}
    assert {"aggregator.energy.weight", "aggregator.head.weight"} <= moved, moved
"""


def test_a_file_of_the_text_is_an_aggregator_that_trains_in_both_stages(tmp_path: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Adding an aggregator\n")[2].partition("\n## ")[0]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    (tmp_path / "logsumexp.py").write_text(example.group(1))
    done = subprocess.run([sys.executable, "-c", FOLLOWED, str(tmp_path)], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
