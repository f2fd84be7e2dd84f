"""MDMIL: queries of a class's own tiles, a memory of its bags, against equations written out plainly."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mhim_core.errors import ConfigError
from mhim_core.mil import class_queries
from mhim_core.mil.aggregator import BagOutput
from mhim_core.mil.aggregators.mdmil import Mdmil
from mhim_core.mil.aggregators.mdmil_options import MdmilInstanceLoss, MdmilOptions, MdmilSelection
from mhim_core.mil.class_queries import FeedForward, QueryAttention, TileAttention
from mhim_core.mil.draws import Draws
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions, Score
from mhim_core.mil.packed import Pack
from mhim_core.mil.scoring import score_instances, score_pack
from mhim_core.mil.tile_selection import log_odds, preferred_class
from mhim_core.store.schema import FeatureTable
from mhim_core.task import FittedTask, Task, TaskKind
from mhim_core.train.inference import Voter, predict_tables
from mhim_core.types import BagId, SlideId

DIM = 16
DRAWS = Draws(0, 0, BagId("a"))


def make(
    num_classes: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: str = "s",
    mhim: MhimOptions | None = None,
    **own: Any,
) -> MilModel:
    model = ModelOptions(aggregator="mdmil", embed_dim=DIM, **own)
    return build_model(10, num_classes, model, mhim, seed=seed, dtype=dtype)


def aggregator_of(model: MilModel) -> Mdmil:
    assert isinstance(model.aggregator, Mdmil)
    return model.aggregator


def instances(num: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num, DIM, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def reference_queries(aggregator: Mdmil, h: Tensor) -> Tensor:
    """IQ by sorting one class after the other."""
    options, probability, f = aggregator.options, aggregator.instance_head(h).softmax(dim=1), aggregator.project(h)
    n1, n2 = max(1, int(len(h) * options.first_share)), max(1, int(len(h) * options.other_share))
    orders = [probability[:, k].argsort(descending=True).tolist() for k in range(probability.shape[1])]
    means = [float(probability[order[:n1], k].mean()) for k, order in enumerate(orders)]
    deviations = [float(probability[order[:n1], k].std(correction=0)) for k, order in enumerate(orders)]
    confidences = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
    first, second, *_ = sorted(range(len(orders)), key=lambda k: -confidences[k])
    preferred = None
    if options.mdmil_selection is MdmilSelection.tcga:
        agree = means.index(max(means)) == deviations.index(min(deviations))
        if confidences[first] + options.margin > confidences[second] and agree:
            preferred = first
    elif confidences[0] + options.margin > confidences[1]:
        preferred = 0
    elif confidences[1] > confidences[0]:
        preferred = 1
    return torch.stack([f[order[: n1 if k == preferred else n2]].mean(dim=0) for k, order in enumerate(orders)])


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (4, 64)).transpose(0, 1)


def reference_attention(layer: TileAttention, internal: Tensor, learned: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """With every key and value; out, and attention by head."""
    normed = layer.norm_tiles(f)
    key, value = heads(layer.to_k(normed)), heads(layer.to_v(normed))
    by_internal = heads(layer.to_q(layer.norm_internal(internal))) @ key.transpose(1, 2) / 8
    by_learned = heads(layer.to_q_learned(layer.norm_learned(learned))) @ key.transpose(1, 2) / 8
    attention = 0.3 * by_internal.softmax(dim=2) + 0.7 * by_learned.softmax(dim=2)
    return layer.to_out((attention @ value).transpose(0, 1).flatten(1)) + internal, attention


def reference(aggregator: Mdmil, h: Tensor) -> BagOutput:
    """The whole forward pass."""

    def feed(layer: FeedForward, x: Tensor) -> Tensor:
        value, gate = layer.widen(layer.norm(x)).chunk(2, dim=1)
        return x + layer.narrow(value * F.gelu(gate))

    def attend(layer: QueryAttention, x: Tensor) -> Tensor:
        query, key, value = (heads(part) for part in layer.to_qkv(layer.norm(x)).chunk(3, dim=1))
        mixed = (query @ key.transpose(1, 2) / 8).softmax(dim=2) @ value
        return x + layer.to_out(mixed.transpose(0, 1).flatten(1))

    internal = reference_queries(aggregator, h)
    out, attention = reference_attention(
        aggregator.attend_tiles, internal, aggregator.learned_queries, aggregator.project(h)
    )
    r = feed(aggregator.feed2, attend(aggregator.attend_queries, feed(aggregator.feed1, out)))
    return BagOutput(aggregator.head.weight @ r.mean(dim=0), r, attention.mean(dim=0))


@pytest.mark.parametrize("num", [1, 2, 7, 60, 250])
@pytest.mark.parametrize(
    ("num_classes", "options"),
    [
        (2, {}),
        (3, {}),
        (3, {"mdmil_margin": 1.0, "mdmil_first_share": 0.5}),
        (2, {"mdmil_selection": MdmilSelection.camelyon}),
        (2, {"mdmil_selection": MdmilSelection.camelyon, "mdmil_margin": -1.0, "mdmil_other_share": 1.0}),
    ],
)
def test_the_forward_pass_is_that_of_the_equations(num: int, num_classes: int, options: dict[str, object]) -> None:
    aggregator = aggregator_of(make(num_classes, **options)).requires_grad_(False)
    h = instances(num)
    output, expected = aggregator(h), reference(aggregator, h)
    for name in ("logits_C", "feature_D", "attention_HN"):
        torch.testing.assert_close(getattr(output, name), getattr(expected, name), rtol=1e-9, atol=1e-10)


def test_with_one_top_tile_and_no_learned_query_attention_is_keyed_by_the_top_tile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(class_queries, "INTERNAL_SHARE", 1.0)
    shares = {"mdmil_first_share": 1e-9, "mdmil_other_share": 1e-9}
    aggregator, h = aggregator_of(make(**shares)).requires_grad_(False), instances(40)
    top = aggregator.instance_head(h).softmax(dim=1).argmax(dim=0)
    assert len(set(top.tolist())) == 3
    layer, f = aggregator.attend_tiles, aggregator.project(h)
    energy = heads(layer.to_q(layer.norm_internal(f[top]))) @ heads(layer.to_k(layer.norm_tiles(f))).transpose(1, 2)
    attention = aggregator(h).attention_HN
    torch.testing.assert_close(attention, (energy / 8).softmax(dim=2).mean(dim=0), rtol=1e-9, atol=1e-12)
    twin = aggregator(torch.cat([h, h[top[:1]]])).attention_HN  # DSMIL's property
    torch.testing.assert_close(twin[0, top[0]], twin[0, -1])


@pytest.mark.parametrize(
    ("selection", "margin", "means", "deviations", "preferred"),
    [
        (MdmilSelection.tcga, -0.1, [0.9, 0.5, 0.2], [0.1, 0.2, 0.2], 0),
        (MdmilSelection.tcga, -0.1, [0.2, 0.5, 0.9], [0.2, 0.2, 0.1], 2),
        (MdmilSelection.tcga, -0.1, [0.9, 0.85, 0.2], [0.1, 0.11, 0.2], None),  # too close
        (MdmilSelection.tcga, -0.1, [0.9, 0.5, 0.2], [0.2, 0.1, 0.3], None),  # the surest is not the steadiest
        (MdmilSelection.camelyon, 0.2, [0.5, 0.6], [0.0, 0.0], 0),
        (MdmilSelection.camelyon, 0.2, [0.5, 0.8], [0.0, 0.0], 1),
        (MdmilSelection.camelyon, -0.2, [0.6, 0.5], [0.0, 0.0], None),
        (MdmilSelection.camelyon, -0.2, [0.8, 0.5], [0.0, 0.0], 0),
    ],
)
def test_the_preferred_class_is_that_of_the_rule(
    selection: MdmilSelection, margin: float, means: list[float], deviations: list[float], preferred: int | None
) -> None:
    options = MdmilOptions(mdmil_selection=selection, mdmil_margin=margin)
    chosen = preferred_class(torch.tensor([means]), torch.tensor([deviations]), options)[0].tolist()
    assert chosen == [index == preferred for index in range(len(means))]


def test_tiles_are_ranked_where_their_probabilities_round_to_one() -> None:
    logits = torch.stack([torch.zeros(50), torch.linspace(40, 60, 50)], dim=1)
    assert logits.softmax(dim=1)[:, 1].unique().numel() == 1
    assert log_odds(logits)[:, 1].unique().numel() == 50
    torch.testing.assert_close(log_odds(instances(9)).sigmoid(), instances(9).softmax(dim=1))


def test_the_order_of_tiles_does_not_matter_where_the_instance_head_is_sure() -> None:
    model = make(dtype=torch.float32).requires_grad_(False)
    aggregator = aggregator_of(model)
    aggregator.instance_head.weight *= 100
    h, order = instances(300, dtype=torch.float32), torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert (aggregator.instance_head(h).softmax(dim=1) == 1).sum(dim=0).min() > 15
    torch.testing.assert_close(aggregator(h).logits_C, aggregator(h[order]).logits_C, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", list(MdmilInstanceLoss))
def test_the_task_loss_is_the_sum_of_its_three_parts(form: MdmilInstanceLoss) -> None:
    aggregator = aggregator_of(make(mdmil_instance_loss=form)).requires_grad_(False)
    aggregator.memory.copy_(F.normalize(instances(3, seed=5), dim=1))
    h, label = instances(30), torch.tensor(2)
    output = aggregator(h, DRAWS)
    largest = aggregator.instance_head(h).softmax(dim=1).amax(dim=0)
    by_form = {
        MdmilInstanceLoss.clean: -math.log(float(largest[2])),
        MdmilInstanceLoss.released: float(F.cross_entropy(largest[None], label[None])),
    }
    r = output.feature_D[2] / output.feature_D[2].norm()
    memory = -float((aggregator.memory @ r / 0.05).log_softmax(dim=0)[2])
    actual = aggregator.task_loss(torch.tensor(0.25, dtype=torch.float64), output, label)
    assert float(actual) == pytest.approx(0.25 + by_form[form] + 0.5 * memory, rel=1e-10)
    assert aggregator.task_loss(torch.tensor(0.25), aggregator(h), label) == 0.25, (
        "in inference there is the bag's alone"
    )
    assert aggregator.task_loss(torch.tensor(0.25), output, None) == 0.25


@pytest.mark.parametrize("form", list(MdmilInstanceLoss))
def test_gradients_of_the_whole_loss_are_those_of_finite_differences(form: MdmilInstanceLoss) -> None:
    aggregator = aggregator_of(make(mdmil_instance_loss=form)).requires_grad_(False)
    aggregator.memory.copy_(F.normalize(instances(3, seed=5), dim=1))

    label, h = torch.tensor(1), instances(6).requires_grad_()

    def loss() -> Tensor:
        output = aggregator(h, DRAWS)
        return aggregator.task_loss(F.cross_entropy(output.logits_C[None], label[None]), output, label)

    inputs = [h, *aggregator.requires_grad_().parameters()]
    gradients = torch.autograd.grad(loss(), inputs)
    generator = torch.Generator().manual_seed(0)
    for tensor, gradient in zip(inputs, gradients, strict=True):
        direction = torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
        ends = []
        with torch.no_grad():
            for factor in (1e-5, -2e-5, 1e-5):
                tensor.add_(direction, alpha=factor)
                ends.append(float(loss()))
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-9)


def test_the_memory_moves_by_the_mean_of_a_class_s_bags_and_keeps_length_one() -> None:
    aggregator = aggregator_of(make()).requires_grad_(False)
    outputs = [aggregator(instances(12, seed=seed), DRAWS) for seed in range(3)]
    labels = [torch.tensor(index) for index in (1, 1, 0)]
    rows = [F.normalize(output.feature_D[int(label)], dim=0) for output, label in zip(outputs, labels, strict=True)]
    notes = sum(aggregator.take_notes(*bag) for bag in zip(outputs, labels, strict=True))
    assert isinstance(notes, Tensor)
    aggregator.learn_notes(notes, epoch=0)
    torch.testing.assert_close(aggregator.memory[1], F.normalize(rows[0] + rows[1], dim=0))
    torch.testing.assert_close(aggregator.memory[0], rows[2])
    assert torch.equal(aggregator.memory[2], torch.zeros(DIM, dtype=torch.float64)), "of no bag yet"

    before = aggregator.memory.clone()
    aggregator.learn_notes(aggregator.take_notes(outputs[0], labels[0]), epoch=100)
    torch.testing.assert_close(aggregator.memory[1], F.normalize(0.5 * before[1] + 0.5 * rows[0], dim=0))
    torch.testing.assert_close(aggregator.memory.norm(dim=1), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    frozen = aggregator.memory.clone()
    aggregator.learn_notes(aggregator.take_notes(outputs[1], labels[1]), epoch=100_000)
    torch.testing.assert_close(aggregator.memory[1], F.normalize(0.8 * frozen[1] + 0.2 * rows[1], dim=0))
    assert float(aggregator.take_notes(outputs[0], None).abs().sum()) == 0, "of a task without classes"


def test_masking_by_attention_goes_by_the_bag_s_own_class() -> None:
    model = make()
    lengths, labels = [9, 20], torch.tensor([2, 0])
    h = instances(29)
    pack = Pack(lengths, h.device)
    packed = score_pack(model, h, model.aggregator.forward_packed(h, pack), pack, Score.attention, labels)
    single = []
    for part, label in zip(pack.split(h), labels, strict=True):
        output = model.aggregator(part)
        score = score_instances(model, part, output, Score.attention, label)
        assert torch.equal(score[0], output.attention_HN[label])
        unknown = score_instances(model, part, output, Score.attention)
        assert torch.equal(unknown[0], output.attention_HN.amax(dim=0))
        single.append(score)
    torch.testing.assert_close(packed, torch.cat(single, dim=1), rtol=1e-9, atol=1e-12)


def test_the_evidence_of_a_tile_is_what_its_head_says_of_it_where_a_class_looks() -> None:
    model, h = make(2).requires_grad_(False), instances(15)
    output = model.aggregator(h)
    difference = model.aggregator.instance_head(h) @ torch.tensor([-0.5, 0.5], dtype=torch.float64)
    expected = difference.abs() * output.attention_HN.sum(dim=0)
    torch.testing.assert_close(score_instances(model, h, output, Score.margin)[0], expected)


@pytest.mark.thorough
def test_a_bag_of_200_000_tiles_passes_with_its_gradient() -> None:
    model = make(2, dtype=torch.float32)
    x = torch.randn(200_000, 10, generator=torch.Generator().manual_seed(0))
    output = model.aggregator(model.embed_instances(x, DRAWS), DRAWS)
    model.aggregator.task_loss(output.logits_C.square().sum(), output, torch.tensor(1)).backward()
    assert output.attention_HN.shape == (2, 200_000)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def table(name: str, num: int) -> FeatureTable:
    features = instances(num)[:, :10].numpy().astype(np.float16)
    shares = np.zeros(num, np.float32)
    return FeatureTable(SlideId(name), features, np.zeros((num, 2), np.int32), shares, shares, {})


def test_a_heat_map_is_drawn_of_every_class() -> None:
    task = FittedTask(kind=TaskKind.classification, classes=("benign", "plain"))
    voters = [
        Voter(make(2), False, task),
        Voter(build_model(10, 2, ModelOptions(aggregator="mdmil"), seed="t"), False, task),
    ]
    tables = [table("s1", 20), table("s2", 7)]
    prediction = predict_tables(tables, voters)
    assert prediction.attention_of.keys() == {"class benign", "class plain"}
    for index, attention in enumerate(prediction.attention):
        of_classes = [parts[index] for parts in prediction.attention_of.values()]
        np.testing.assert_allclose(np.mean(of_classes, axis=0), attention, rtol=1e-5)
        assert not np.allclose(*of_classes)
    for parts in prediction.attention_of.values():
        assert sum(float(part.sum()) for part in parts) == pytest.approx(1, abs=1e-5)


def test_what_mdmil_cannot_learn_is_refused() -> None:
    survival, three = Task(kind=TaskKind.survival), Task(kind=TaskKind.classification, classes=("a", "b", "c"))
    two = Task(kind=TaskKind.classification, classes=("a", "b"))
    model = ModelOptions(aggregator="mdmil")
    camelyon = ModelOptions(aggregator="mdmil", mdmil_selection=MdmilSelection.camelyon)
    for options, task, words in ((model, survival, "needs classes"), (camelyon, three, "two classes, not for 3")):
        with pytest.raises(ConfigError, match=words):
            options.check_task(task)
    model.check_task(three)
    camelyon.check_task(two)
    ModelOptions().check_task(survival)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mdmil_first_share": 0.0},
        {"mdmil_other_share": 1.5},
        {"mdmil_margin": math.inf},
        {"mdmil_memory_weight": -0.1},
    ],
)
def test_senseless_options_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ModelOptions(aggregator="mdmil", **wrong)
    with pytest.raises(ConfigError, match="option of aggregator=mdmil, not of abmil"):
        ModelOptions(**wrong)


def test_the_memory_is_part_of_the_state() -> None:
    names = {
        name
        for name, _ in build_model(10, 2, ModelOptions(aggregator="mdmil"), MhimOptions(), seed="s").named_buffers()
    }
    assert names == {"aggregator.memory", "recycle.queries"}
