"""A bag's layout from its source to every view of a step and to inference, for an aggregator that asks for it alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mhim_core.bags import BagReads, Beside
from mhim_core.errors import ConfigError, InputError
from mhim_core.features import NO_PLACE_PX
from mhim_core.mil.aggregators.mammil_options import MammilGraph
from mhim_core.mil.layout import TREE_BESIDE, Layout
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.store.schema import FeatureTable
from mhim_core.task import ClassTarget, FittedTask, TaskKind
from mhim_core.train.asking import AskedBag
from mhim_core.train.bag_embeddings import embed_bag
from mhim_core.train.card import ModelCard
from mhim_core.train.context import SingleProcess
from mhim_core.train.device_bags import DeviceBags
from mhim_core.train.evidence import instance_evidence
from mhim_core.train.feed import BagFeed
from mhim_core.train.fit_options import Precision
from mhim_core.train.flip_radius import check_flips
from mhim_core.train.inference import Voter, bag_layout, predict_tables
from mhim_core.train.model_file import LoadedModel, predict_bag
from mhim_core.train.packed_step import packed_step
from mhim_core.train.plan import LabelledBag, Stage, TrainPlan
from mhim_core.train.preparation import make_setup, start_state
from mhim_core.train.sampler import Sampled
from mhim_core.train.state import TrainState
from mhim_core.train.step import Bag, train_step
from mhim_core.types import BagId, SlideId
from mhim_core.view.bag_looks import layout_in_bag, look_at_bag, outputs_without

CPU = torch.device("cpu")
MODEL = ModelOptions(aggregator="mammil", embed_dim=16, mammil_states=8)
BAG = LabelledBag(BagId("bag-03"), ClassTarget(1))
TASK = FittedTask(kind=TaskKind.classification, classes=("a", "b"))


def plan_with(plan_of: Callable[..., TrainPlan], model: ModelOptions = MODEL, **options: Any) -> TrainPlan:
    return dataclasses.replace(plan_of(precision=Precision.float64, **options), model=model)


def feed_of(plan: TrainPlan, bags: Any) -> BagFeed:
    return BagFeed(bags, make_setup(plan, plan.fits[0]), CPU)


def start(plan: TrainPlan) -> TrainState:
    setup = make_setup(plan, next(spec for spec in plan.fits if spec.stage is Stage.mhim))
    taught = build_model(plan.d_in, 2, plan.model, seed="stage 1", dtype=torch.float64)
    card = ModelCard(
        stage=Stage.plain,
        fold=0,
        seed=0,
        d_in=plan.d_in,
        task=TASK,
        precision=Precision.float64,
        model=plan.model,
        mhim=None,
    )
    return start_state(setup, LoadedModel(card, taught, None), CPU)


def test_a_bag_brings_its_layout_only_where_the_aggregator_asks_for_it(bags, plan_of) -> None:  # type: ignore[no-untyped-def]
    layout = feed_of(plan_with(plan_of), bags).read(BAG).layout
    expected = Layout.of_arrays(bags.read_beside(BAG.bag_id, TREE_BESIDE))
    assert layout is not None
    assert torch.equal(layout.rank_PN, expected.rank_PN)
    assert torch.equal(layout.parent_N, expected.parent_N)
    path = dataclasses.replace(MODEL, mammil_graph=MammilGraph.path)
    for model in (ModelOptions(embed_dim=16), path):
        assert feed_of(plan_with(plan_of, model), bags).read(BAG).layout is None


def test_a_subsample_inherits_the_whole_bags_layout(bags, plan_of) -> None:  # type: ignore[no-untyped-def]
    whole = feed_of(plan_with(plan_of), bags).read(BAG)
    drawn = feed_of(plan_with(plan_of, max_instances=9), bags).draw(Sampled(BAG), 0)
    rows = torch.tensor([int((whole.x_NF == row).all(dim=1).nonzero()) for row in drawn.x_NF])
    assert len(rows) == 9
    assert whole.layout is not None
    assert drawn.layout is not None
    assert torch.equal(drawn.layout.parent_N, whole.layout.select(rows).parent_N)


def test_bags_without_places_are_refused_before_any_work_unless_the_stored_order_is_asked_for(bags, plan_of) -> None:  # type: ignore[no-untyped-def]
    class Placeless:
        dim, lengths, read = bags.dim, bags.lengths, bags.read

    with pytest.raises(ConfigError, match=r"mammil needs the places.*Placeless"):
        feed_of(plan_with(plan_of), Placeless()).require([BAG])
    path = dataclasses.replace(MODEL, mammil_graph=MammilGraph.path)
    feed_of(plan_with(plan_of, path), Placeless()).require([BAG])


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_a_masked_step_does_not_depend_on_the_order_in_which_tiles_are_stored(bags, plan_of, weight: float) -> None:  # type: ignore[no-untyped-def]
    """High masks hide the same tiles, and the subset inherits paths and tree; the random split is by row."""
    mhim = MhimOptions(high_mask_ratio=0.3, random_mask_ratio=0.0, full_view_weight=weight)
    plan = plan_with(plan_of, dataclasses.replace(MODEL, dropout=0.0, mammil_dropout=0.0), mhim=mhim)
    bag = feed_of(plan, bags).read(BAG)
    assert bag.layout is not None
    order = torch.randperm(len(bag.x_NF), generator=torch.Generator().manual_seed(0))
    moved = bag._replace(x_NF=bag.x_NF[order], layout=bag.layout.select(order))
    losses = [train_step(start(plan), [each], 1, SingleProcess()) for each in (bag, moved)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-9)
    forgotten = train_step(start(plan), [moved._replace(layout=None)], 1, SingleProcess())
    assert float((forgotten.task_B - losses[0].task_B).abs()) > 1e-6


def test_a_pack_gives_each_bag_its_own_layout(bags, plan_of) -> None:  # type: ignore[no-untyped-def]
    mhim = MhimOptions(high_mask_ratio=0.2, random_mask_ratio=0.5)
    plan = plan_with(plan_of, mhim=mhim)
    feed = feed_of(plan, bags)
    share = [feed.read(LabelledBag(BagId(f"bag-{number:02d}"), ClassTarget(0))) for number in (1, 3, 4)]
    single, packed = start(plan), start(plan)
    expected = train_step(single, share, 3, SingleProcess())
    torch.testing.assert_close(packed_step(packed, share, 3, SingleProcess(), 500), expected, rtol=1e-9, atol=1e-9)
    for name, tensor in single.models().items():
        torch.testing.assert_close(packed.models()[name], tensor, rtol=1e-9, atol=1e-9)


class KeptBags:
    """What `DeviceBags` needs of a source."""

    dim, reads = 12, BagReads()

    def lengths(self) -> dict[BagId, int]:
        return {BagId("a"): 3}

    def read_beside(self, bag_id: BagId, beside: Beside) -> list[np.ndarray]:
        return [np.full((3, beside.width), 7, np.int32)]


def test_bags_on_a_device_bring_what_their_source_keeps_beside_them() -> None:
    bags = DeviceBags(KeptBags(), CPU, 2**20, pytest.fail)  # type: ignore[arg-type]
    assert bags.read_beside(BagId("a"), TREE_BESIDE)[0].tolist() == [[7] * 5] * 3


def table(slide_id: str, num: int) -> FeatureTable:
    draw = np.random.default_rng(num)
    places = np.sort(draw.choice(400, num, replace=False))
    coords = np.stack([places % 20, places // 20], axis=1).astype(np.int32)
    ones = np.ones(num, np.float32)
    return FeatureTable(SlideId(slide_id), draw.normal(size=(num, 12)).astype(np.float16), coords, ones, ones, {})


def test_a_prediction_follows_the_tables_coordinates() -> None:
    model = build_model(12, 2, MODEL, seed="s").eval().requires_grad_(False)
    tables = [table("one", 30), table("two", 12)]
    prediction = predict_tables(tables, [Voter(model, False, TASK)])
    layout = Layout.of_arrays([TREE_BESIDE.make(each.features, each.coords_l0_px) for each in tables])
    x_NF = torch.from_numpy(np.concatenate([each.features for each in tables]))
    assert prediction.logits_MC[0].tolist() == predict_bag(model, x_NF, False, layout).logits_C.double().tolist()
    assert [len(part) for part in prediction.attention] == [30, 12]
    order = np.random.default_rng(0).permutation(30)
    moved = tables[0]._replace(features=tables[0].features[order], coords_l0_px=tables[0].coords_l0_px[order])
    again = predict_tables([moved, tables[1]], [Voter(model, False, TASK)])
    np.testing.assert_allclose(again.logits_MC, prediction.logits_MC, rtol=1e-4, atol=1e-5)


def test_a_slide_without_coordinates_cannot_be_predicted_by_it() -> None:
    model = build_model(12, 2, MODEL, seed="s")
    placeless = table("far", 5)._replace(coords_l0_px=np.full((5, 2), NO_PLACE_PX, np.int32))
    with pytest.raises(InputError, match="slide far"):
        predict_tables([placeless], [Voter(model, False, TASK)])


def test_a_bag_by_hand_is_one_path() -> None:
    x_NF = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    model = build_model(12, 2, MODEL, seed="s")
    assert torch.equal(model(x_NF).logits_C, model(x_NF, False, Layout.path(9, CPU)).logits_C)
    assert Bag(BagId("x"), None, x_NF).layout is None  # type: ignore[arg-type]


def test_what_asks_a_finished_model_again_gives_it_the_layout_of_the_whole_bag() -> None:
    model = build_model(12, 2, MODEL, seed="s").eval().requires_grad_(False)
    model.demands_layout = True
    voter, tables = Voter(model, False, TASK), [table("one", 30), table("two", 12)]
    whole = predict_tables(tables, [voter])
    asked, rows = AskedBag(tables, [voter]), np.arange(3, 42, 2)
    assert np.array_equal(asked.prediction.logits_MC, whole.logits_MC)
    layout = bag_layout(tables, [voter])
    assert layout is not None
    x_NF = torch.from_numpy(np.concatenate([each.features for each in tables]))
    part = predict_bag(model, x_NF[rows], False, layout.select(torch.from_numpy(rows)))
    assert asked.predict(rows).logits_MC[0].tolist() == part.logits_C.double().tolist()
    evidence = instance_evidence(tables, [voter])
    assert evidence is not None
    total = np.concatenate(evidence).sum(axis=0) + model.aggregator.head.bias.double().numpy()
    np.testing.assert_allclose(total, whole.logits_MC[0], rtol=1e-4, atol=1e-5)
    assert np.array_equal(embed_bag(x_NF, voter, layout).logits_C, whole.logits_MC[0])
    with pytest.raises(ValueError, match="layout"):
        embed_bag(x_NF, voter)
    with pytest.raises(InputError, match="tree"):
        check_flips([voter])


def test_the_viewer_looks_at_a_bag_as_it_is_predicted() -> None:
    model = build_model(12, 2, MODEL, seed="s").eval().requires_grad_(False)
    model.demands_layout = True
    voter, tables = Voter(model, False, TASK), [table("one", 30), table("two", 12)]
    features = np.concatenate([each.features for each in tables])
    layout = layout_in_bag(model, features, [each.coords_l0_px for each in tables])
    whole, asked = predict_tables(tables, [voter]), AskedBag(tables, [voter])
    look = look_at_bag(voter, features, layout)
    np.testing.assert_allclose(look.outputs, whole.outputs, rtol=1e-6)
    np.testing.assert_allclose(look.attention_N, np.concatenate(whole.attention), rtol=1e-5)
    without = outputs_without(voter, features, [5], layout)
    np.testing.assert_allclose(without, asked.predict(np.delete(np.arange(42), 5)).outputs, rtol=1e-6)
