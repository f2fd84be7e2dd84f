"""Bags through finished models: the same bits on every machine."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import ModelOptions
from mhim_core.store.schema import FeatureTable
from mhim_core.task import FittedTask, TaskKind
from mhim_core.train.inference import (
    NUM_THREADS,
    Voter,
    fixed_threads,
    join_logits,
    join_pair,
    outputs_of,
    predict_tables,
)
from mhim_core.types import SlideId

D_IN, NUM_TILES = 384, 2000
TASK = FittedTask(kind=TaskKind.classification, classes=("a", "b"))


@pytest.fixture
def threads() -> Iterator[None]:
    """What a test sets torch's threads to ends with it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def table(slide_id: str, num: int) -> FeatureTable:
    generator = np.random.default_rng(num)
    features = generator.normal(size=(num, D_IN)).astype(np.float16)
    ones = np.ones(num, np.float32)
    return FeatureTable(SlideId(slide_id), features, np.zeros((num, 2), np.int32), ones, ones, {})


def voter(aggregator: str) -> Voter:
    model = MilModel(D_IN, 2, ModelOptions(aggregator=aggregator), None).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return Voter(model, False, TASK)


@pytest.mark.parametrize("aggregator", ["transmil", "abmil"])
def test_a_prediction_has_the_same_bytes_whatever_torchs_threads_were(aggregator: str, threads: None) -> None:
    tables, model = [table("s1", NUM_TILES), table("s2", 300)], voter(aggregator)
    outputs = {}
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        prediction = predict_tables(tables, [model])
        outputs[number] = [
            prediction.logits_MC.tobytes(),
            *(attention_N.tobytes() for attention_N in prediction.attention),
        ]
        assert torch.get_num_threads() == number, "the caller's threads are as they were"
    assert outputs[1] == outputs[2] == outputs[3]


def test_threads_are_restored_after_an_error_too(threads: None) -> None:
    torch.set_num_threads(3)
    inside = []

    def fail() -> None:
        with fixed_threads():
            inside.append(torch.get_num_threads())
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fail()
    assert inside == [NUM_THREADS]
    assert torch.get_num_threads() == 3


def test_a_bag_of_several_slides_is_one_bag_and_the_models_vote() -> None:
    tables, models = [table("s1", 20), table("s2", 7)], [voter("abmil"), voter("transmil")]
    together = predict_tables(tables, models)
    alone = [predict_tables(tables, [model]) for model in models]
    np.testing.assert_array_equal(together.logits_MC, np.concatenate([prediction.logits_MC for prediction in alone]))
    np.testing.assert_allclose(
        together.outputs, np.mean([prediction.outputs for prediction in alone], axis=0), atol=1e-15
    )
    np.testing.assert_allclose(
        together.spread, np.std([prediction.outputs for prediction in alone], axis=0), atol=1e-15
    )
    assert [len(attention_N) for attention_N in together.attention] == [20, 7]
    assert sum(float(attention_N.sum()) for attention_N in alone[0].attention) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_outputs_are_what_evaluation_makes_of_the_same_logits(kind: TaskKind) -> None:
    from mhim_core.evaluation.held_out import HeldOut
    from mhim_core.task import ClassTarget

    logits = np.array([0.3, -1.2, 2.5, 0.1])
    row = HeldOut("m", 0, 0, "s", "p", None, ClassTarget(0), tuple(logits.tolist()))
    expected = {
        TaskKind.classification: row.probabilities,
        TaskKind.survival: (row.risk,),
        TaskKind.regression: row.logits,
    }
    np.testing.assert_allclose(outputs_of(logits, kind), expected[kind], rtol=1e-14)


def test_a_pair_predicts_by_the_mean_odds_and_looks_by_the_mean_attention() -> None:
    tables = [table("s1", 20), table("s2", 7)]
    student, plain = voter("abmil"), voter("dsmil")
    alone = [predict_tables(tables, [each]) for each in (student, plain)]
    pair = predict_tables(tables, [student._replace(beside=plain)])
    odds = np.mean([each.outputs[1] / each.outputs[0] for each in alone])
    np.testing.assert_allclose(pair.outputs, [1 / (1 + odds), odds / (1 + odds)], rtol=1e-12)
    np.testing.assert_array_equal(pair.outputs, outputs_of(pair.logits_MC[0], TaskKind.classification))
    assert {name: len(parts) for name, parts in pair.attention_of.items()} == {"student": 2, "plain": 2}
    for index, attention_N in enumerate(pair.attention):
        np.testing.assert_array_equal(pair.attention_of["student"][index], alone[0].attention[index])
        np.testing.assert_array_equal(pair.attention_of["plain"][index], alone[1].attention[index])
        np.testing.assert_allclose(attention_N, (alone[0].attention[index] + alone[1].attention[index]) / 2, rtol=1e-7)
    assert sum(float(attention_N.sum()) for attention_N in pair.attention) == pytest.approx(1, abs=1e-5)
    assert not alone[0].attention_of
    joined = join_pair(*alone, TaskKind.classification)
    assert joined.logits_MC.tobytes() == pair.logits_MC.tobytes()


def test_pairs_vote_like_models_each_student_with_its_own_stage_1() -> None:
    tables = [table("s1", 20)]
    pairs = [voter("abmil")._replace(beside=voter("dsmil")), voter("transmil")._replace(beside=voter("abmil"))]
    together, alone = predict_tables(tables, pairs), [predict_tables(tables, [pair]) for pair in pairs]
    np.testing.assert_array_equal(together.logits_MC, np.concatenate([each.logits_MC for each in alone]))
    np.testing.assert_allclose(together.outputs, np.mean([each.outputs for each in alone], axis=0), atol=1e-15)
    np.testing.assert_allclose(
        together.attention[0], np.mean([each.attention[0] for each in alone], axis=0), rtol=1e-5, atol=1e-8
    )


def test_joined_logits_of_agreeing_models_are_theirs_and_nothing_overflows() -> None:
    same = np.array([[0.5, -0.5], [-400.0, 400.0]])
    np.testing.assert_allclose(join_logits(same, same, TaskKind.classification), same, rtol=1e-12)
    far = join_logits(np.array([[900.0, -900.0]]), np.array([[-900.0, 900.0]]), TaskKind.classification)
    assert far[0, 1] - far[0, 0] == pytest.approx(1800 - np.log(2))
    several, other = np.array([[1.0, 2.0, 4.0]]), np.array([[3.0, 0.0, 0.0]])
    for kind in TaskKind:
        np.testing.assert_array_equal(join_logits(several, other, kind), [[2.0, 1.0, 2.0]])
    np.testing.assert_array_equal(join_logits(several[:, :2], other[:, :2], TaskKind.survival), [[2.0, 1.0]])
