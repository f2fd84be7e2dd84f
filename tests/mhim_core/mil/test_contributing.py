"""CONTRIBUTING, "Adding an aggregator", followed to the letter: two files, and the aggregator trains."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"

FOLLOWED = """
import sys
import mhim_core.mil.aggregators as aggregators
aggregators.__path__.append(sys.argv[1])  # where the new files lie, as if they were in the folder

from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, MhimOptions, ModelOptions
assert "torch" not in sys.modules, "--help reads the names"
assert "logsumexp" in AGGREGATOR_NAMES and "logsumexp" in MINING_AGGREGATORS

import dataclasses
from mhim_core.errors import ConfigError
from mhim_core.fingerprint import fingerprint, to_plain
from mhim_core.records import read_record
fields = {field.name: field for field in dataclasses.fields(ModelOptions)}
assert fields["logsumexp_sharpness"].default == 1.0
plain, own = ModelOptions(), ModelOptions(aggregator="logsumexp", logsumexp_sharpness=2.0)
assert fingerprint(plain) == "2945062e7e4123f88a8df321a6452317a23a618d77d7486e24d79823ceae72e8", "as before"
try:
    ModelOptions(logsumexp_sharpness=2.0)
except ConfigError as error:
    assert "logsumexp_sharpness" in str(error) and "abmil" in str(error)
else:
    raise AssertionError("for another aggregator it is no option, and is not dropped without a word")
assert to_plain(own)["logsumexp_sharpness"] == 2.0
assert to_plain(own) != to_plain(ModelOptions(aggregator="logsumexp")) == to_plain(plain) | {"aggregator": "logsumexp"}
assert read_record(ModelOptions, to_plain(own), "here") == own
try:
    dataclasses.replace(own, logsumexp_sharpness=-1.0)
except ConfigError as error:
    assert "logsumexp_sharpness=-1" in str(error)
else:
    raise AssertionError("the class of its options checks them")

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
model = ModelOptions(aggregator="logsumexp", logsumexp_sharpness=2.0, embed_dim=16)
mhim = MhimOptions(high_mask_ratio=0.3, random_mask_ratio=0.3)
model.require_mining()
for stage in Stage:
    bags = (LabelledBag(BagId("x"), ClassTarget(1)),)
    setup = FitSetup(stage=stage, seed=0, d_in=10, task=task, model=model, mhim=mhim, fit=FitOptions(), train=bags)
    own = mhim if stage is Stage.mhim else None
    student, teacher = (build_model(10, 2, model, own, seed=seed) for seed in ("student", "teacher"))
    state = TrainState.start(setup, student, teacher if own else None, torch.device("cpu"))
    assert student.aggregator.sharpness == 2.0
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    label = make_label(ClassTarget(1), task, torch.float32)
    train_step(state, [Bag(BagId("x"), label, torch.randn(30, 10))], 1, SingleProcess())
    moved = {name for name, value in student.named_parameters() if not torch.equal(value, before[name])}
    assert {"aggregator.energy.weight", "aggregator.head.weight"} <= moved, moved
"""


def test_the_files_of_the_text_are_an_aggregator_that_trains_in_both_stages(tmp_path: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Adding an aggregator\n")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n# mhim_core/mil/aggregators/(\w+\.py)\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 2
    for name, source in examples:
        (tmp_path / name).write_text(source)
    done = subprocess.run([sys.executable, "-c", FOLLOWED, str(tmp_path)], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
