"""The published numbers, through the modules that train: see the golden vectors' README.

In float64 to the vectors' own tolerance, on the CPU and on CUDA alike. In float32 the masks are the vectors' own, since
a score's last bits decide which instances are masked; the numbers then agree to what float32 resolves.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mhim_core.metrics.outputs import survival_curve, survival_risk
from mhim_core.mil.aggregators.dsmil import Dsmil
from mhim_core.mil.draws import CPU, Draws
from mhim_core.mil.formats.mhim_mil import from_published, to_published
from mhim_core.mil.losses import survival_loss
from mhim_core.mil.masking import Masks, RecycleSplit, mask_instances, split_recycled
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import Activation, MhimOptions, ModelOptions, Score
from mhim_core.task import ClassTarget, FittedTask, TaskKind
from mhim_core.train import step as step_module
from mhim_core.train.arithmetic import fixed_arithmetic
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitOptions, Precision
from mhim_core.train.model_file import predict_bag
from mhim_core.train.objective import make_label
from mhim_core.train.plan import LabelledBag, Stage
from mhim_core.train.state import FitSetup, TrainState
from mhim_core.train.step import Bag, train_step, view_as_student, view_as_teacher
from mhim_core.types import BagId

BAG = BagId("golden")
AGGREGATOR_OF = {"attn": "abmil", "selfattn": "transmil", "dsmil": "dsmil"}


class RecordedDraws(Draws):
    """Draws that were made when the golden vector was: purpose → the drawn positions, in order."""

    recorded: dict[str, torch.Tensor]

    def permutation(self, purpose: str, num_items: int, device: torch.device = CPU) -> torch.Tensor:
        drawn = self.recorded[purpose]
        rest = torch.tensor(sorted(set(range(num_items)) - set(drawn.tolist())), dtype=torch.int64)
        return torch.cat([drawn, rest]).to(device)


TOLERANCE = {Precision.float64: 1e-9, Precision.float32: 1e-4}
"""Largest difference of an array, relative to its largest number; of norms ten times as much."""


class Golden:
    """One vector, with what our modules need to repeat it."""

    def __init__(self, path: Path, device: torch.device, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self.dtype = torch.float64 if precision is Precision.float64 else torch.float32
        self.arrays = dict(np.load(path))
        config = self.config = json.loads(str(self.arrays["config"]))
        self.model = ModelOptions(
            aggregator=AGGREGATOR_OF[config["baseline"]],
            embed_dim=config["mlp_dim"],
            embed_activation=Activation(config["act"]),
            attention_activation=Activation(config["da_act"]),
            dropout=config["dropout"],
            transmil_dropout=config["dropout"],
        )
        self.mhim = MhimOptions(
            high_mask_ratio=config["mask_ratio_h"],
            high_mask_subsample=config["mask_ratio_hr"],
            random_mask_ratio=1 - config["merge_ratio"],
            recycle_queries=config["merge_k"],
            recycle_momentum=config["merge_mm"],
            recycle_dropout=0.0,
            temperature=config["temp_t"],
            consistency_weight=config["consistency_weight"],
            ema_momentum=str(config["ema_decay"]),
            score=Score.softmax_max if config["attn2score"] else Score.attention,
            v1_random_mask_ratio=config["mask_ratio"],
            v1_low_mask_ratio=config["mask_ratio_l"],
            full_view_weight=0.0,
        )

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def indices(self, name: str) -> torch.Tensor:
        return self.tensor(name).to(self.device)

    def load(self, role: str) -> MilModel:
        model = MilModel(self.config["input_dim"], self.config["n_classes"], self.model, self.mhim).to(self.dtype)
        names = {name.removeprefix(f"{role}/") for name in self.arrays if name.startswith(f"{role}/")}
        model.load_state_dict(from_published({name: self.tensor(f"{role}/{name}").to(self.dtype) for name in names}))
        return model.to(self.device)

    def draws(self, seed: int, epoch: int, bag_id: BagId) -> RecordedDraws:
        """The recorded index sets as positions among what they were drawn from."""
        draws = RecordedDraws(seed, epoch, bag_id)
        recycled = torch.cat([self.tensor("recycle_kept"), self.tensor("recycle_pooled")])
        draws.recorded = {"recycle": torch.searchsorted(self.tensor("kept"), recycled)}
        if "mask_random" in self.arrays:
            draws.recorded["mask_random"] = self.tensor("mask_random")
        if "mask_high_candidates" in self.arrays:
            drawn = torch.searchsorted(self.tensor("mask_high_candidates"), self.tensor("mask_high"))
            draws.recorded["mask_high"] = drawn
        return draws

    def state(self) -> TrainState:
        label = int(self.arrays["label"][0])
        fit = FitOptions(
            learning_rate=self.config["lr"], weight_decay=self.config["weight_decay"], precision=self.precision
        )
        setup = FitSetup(
            stage=Stage.mhim,
            seed=0,
            d_in=self.config["input_dim"],
            task=self.task,
            model=self.model,
            mhim=self.mhim,
            fit=fit,
            train=(LabelledBag(BAG, ClassTarget(label)),),
        )
        return TrainState.start(setup, self.load("student"), self.load("teacher"), self.device)

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.precision]

    @property
    def is_voted(self) -> bool:
        """Heads voted for the masks. The published code breaks ties between equal votes arbitrarily."""
        return self.arrays["teacher_score"].ndim == 2

    @property
    def masks(self) -> Masks:
        """The recorded index sets."""
        none = torch.empty(0, dtype=torch.int64, device=self.device)
        names = ("mask_high", "mask_low", "mask_random")
        drawn = [self.indices(name) if name in self.arrays else none for name in names]
        return Masks(self.indices("kept"), self.indices("masked"), *drawn)

    @property
    def bag(self) -> Bag:
        target = ClassTarget(int(self.arrays["label"][0]))
        label = make_label(target, self.task, self.dtype, self.device)
        return Bag(BAG, label, self.tensor("x").to(self.device, self.dtype))

    @property
    def task(self) -> FittedTask:
        return FittedTask(kind=TaskKind.classification, classes=tuple(map(str, range(self.config["n_classes"]))))


@pytest.fixture(params=list(Precision))
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param


@pytest.fixture
def golden(golden_path: Path, device: torch.device, precision: Precision) -> Iterator[Golden]:
    with fixed_arithmetic(device):
        yield Golden(golden_path, device, precision)


@pytest.fixture
def state(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> TrainState:
    """Before the step. Where votes tie, and in float32, it takes the recorded masks; masks have a test of their own."""
    if golden.is_voted or golden.precision is Precision.float32:
        monkeypatch.setattr(step_module, "mask_instances", lambda *_: golden.masks)
    return golden.state()


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-9) -> None:
    actual, expected = torch.as_tensor(actual).cpu().double(), torch.as_tensor(expected).cpu()
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-12)


def assert_norms_close(golden: Golden, kind: str, tensors: dict[str, torch.Tensor]) -> None:
    expected = {name.removeprefix(f"{kind}/"): value for name, value in golden.arrays.items() if name.startswith(kind)}
    assert expected
    assert set(expected) == set(tensors)
    for name, value in expected.items():
        assert_close(tensors[name].norm(), value, 10 * golden.tolerance)


def test_the_teacher_sees_the_golden_embedding_and_scores(golden: Golden) -> None:
    view = view_as_teacher(golden.load("teacher"), golden.bag.x_NF, golden.mhim, golden.draws(0, 0, BAG))
    assert_close(view.feature_D, golden.tensor("teacher_bag_feature"), golden.tolerance)
    expected = golden.tensor("teacher_score")
    assert_close(view.score_HN, expected if golden.is_voted else expected[None], golden.tolerance)


@pytest.mark.parametrize("precision", [Precision.float64], indirect=True)
def test_the_masks_are_the_golden_index_sets(golden: Golden) -> None:
    draws = golden.draws(0, 0, BAG)
    view = view_as_teacher(golden.load("teacher"), golden.bag.x_NF, golden.mhim, draws)
    masks = mask_instances(view.score_HN, golden.mhim.high_mask_ratio, golden.mhim, draws)
    if golden.is_voted:
        assert_won_the_vote(golden.masks.high, masks.high, view.score_HN)
        assert_won_the_vote(golden.masks.low, masks.low, -view.score_HN)
        masks = golden.masks
    assert masks.high.tolist() == golden.arrays.get("mask_high", np.array([])).tolist()
    assert masks.low.tolist() == golden.arrays.get("mask_low", np.array([])).tolist()
    assert masks.random.tolist() == golden.arrays.get("mask_random", np.array([])).tolist()
    assert masks.masked.tolist() == golden.arrays["masked"].tolist()
    assert masks.kept.tolist() == golden.arrays["kept"].tolist()
    split = split_recycled(masks.kept, golden.mhim.random_mask_ratio, draws)
    assert split.rows[: split.num_entering].tolist() == golden.arrays["recycle_kept"].tolist()
    assert split.rows[split.num_entering :].tolist() == golden.arrays["recycle_pooled"].tolist()


def assert_won_the_vote(expected: torch.Tensor, actual: torch.Tensor, score_HN: torch.Tensor) -> None:
    """Nobody outside either set has more votes than one inside, and both have as many members."""
    assert len(actual) == len(expected)
    if len(expected) == 0:
        return
    votes_N = torch.zeros(score_HN.shape[1], dtype=torch.int64, device=score_HN.device)
    for score_N in score_HN:
        votes_N[score_N.topk(len(expected)).indices] += 1
    for chosen in (expected, actual):
        outside = torch.ones_like(votes_N, dtype=torch.bool)
        outside[chosen] = False
        assert votes_N[chosen].min() >= votes_N[outside].max()


def test_the_student_makes_the_golden_tokens_and_logits(golden: Golden) -> None:
    kept, recycled = golden.indices("recycle_kept"), golden.indices("recycle_pooled")
    split = RecycleSplit(torch.cat([kept, recycled]), len(kept))
    view = view_as_student(golden.load("student"), golden.bag.x_NF, split, golden.draws(0, 0, BAG))
    assert view.tokens_kD is not None
    assert_close(view.tokens_kD, golden.tensor("recycled_tokens"), golden.tolerance)
    assert_close(view.output.logits_C, golden.tensor("student_logits"), golden.tolerance)
    assert view.output.attention_HN.shape[1] == int(golden.arrays["tokens_into_encoder"])


@pytest.mark.vectors("dsmil")
def test_dsmils_two_streams_give_the_golden_logits(golden: Golden) -> None:
    student, kept, recycled = golden.load("student"), golden.tensor("recycle_kept"), golden.tensor("recycle_pooled")
    assert isinstance(student.aggregator, Dsmil)
    assert student.recycle is not None
    h_ND = student.embed_instances(golden.bag.x_NF)
    h_KD = torch.cat([h_ND[kept], student.recycle(h_ND[recycled])])
    output = student.aggregator(h_KD)
    assert_close(student.aggregator.bag_logits(output.feature_D), golden.tensor("student_bag_logits"), golden.tolerance)
    instance_logits = student.aggregator.instance_logits(h_KD, output)
    assert_close(instance_logits.amax(dim=0), golden.tensor("student_max_instance_logits"), golden.tolerance)


def test_one_step_gives_the_golden_losses_gradients_and_weights(golden: Golden, state: TrainState) -> None:
    result = train_step(state, [golden.bag], 1, SingleProcess(), golden.draws)
    student, teacher = state.student, state.teacher
    assert teacher is not None
    assert student.recycle is not None
    assert_close(result.logits_BC[0], golden.tensor("student_logits"), golden.tolerance)
    assert_close(result.task_B[0], golden.arrays["classification_loss"], golden.tolerance)
    assert_close(result.consistency_B[0], golden.arrays["consistency_loss"], golden.tolerance)
    total = result.task_B[0] + golden.mhim.consistency_weight * result.consistency_B[0]
    assert_close(total, golden.arrays["total_loss"], golden.tolerance)
    gradients = {name: parameter.grad for name, parameter in student.named_parameters() if parameter.grad is not None}
    absent = {name: torch.tensor([torch.nan]) for name in student.state_dict() if name not in gradients}
    published = to_published(gradients | absent)
    assert_norms_close(
        golden, "grad_norm", {name: tensor for name, tensor in published.items() if not tensor.isnan().all()}
    )
    assert_close(student.recycle.queries, golden.tensor("global_queries_after"), golden.tolerance)
    assert_norms_close(golden, "student_after_norm", to_published(student.state_dict()))
    assert_norms_close(golden, "teacher_after_norm", to_published(teacher.state_dict()))


def test_inference_after_the_step_gives_the_golden_logits(golden: Golden, state: TrainState) -> None:
    train_step(state, [golden.bag], 1, SingleProcess(), golden.draws)
    plain, recycled = (predict_bag(state.student, golden.bag.x_NF, append) for append in (False, True))
    assert_close(plain.logits_C, golden.tensor("test_logits"), golden.tolerance)
    assert_close(recycled.logits_C, golden.tensor("test_logits_with_recycle"), golden.tolerance)
    if golden.model.aggregator != "transmil":  # the approximate inverse gives no distribution
        assert_close(plain.attention_N.sum(), 1.0, golden.tolerance)
        assert recycled.attention_N.sum() < 1


@pytest.mark.vectors("survival")
def test_survival_gives_the_golden_losses_curves_and_risks(golden_path: Path, device: torch.device) -> None:
    arrays = {name: torch.from_numpy(array).to(device) for name, array in np.load(golden_path).items()}
    logits = arrays["logits"].cpu().numpy()
    assert_close(survival_curve(logits), arrays["survival"])
    assert_close(survival_risk(logits), arrays["risk"])
    rows = zip(arrays["logits"], arrays["time_bin"], arrays["censored"].bool(), strict=True)
    assert_close(torch.stack([survival_loss(*row) for row in rows]), arrays["loss_per_bag"])
