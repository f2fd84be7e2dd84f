"""The model with every aggregator: size, initialisation, invariances."""

import subprocess
import sys

import pytest
import torch

from mhim_core.mil.aggregators.dsmil_options import DsmilQuery
from mhim_core.mil.draws import Draws
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import Activation, MhimOptions, ModelOptions
from mhim_core.mil.recycle import queries_bound
from mhim_core.mil.registry import AGGREGATOR_NAMES, AGGREGATORS, AggregatorKey, aggregator_class
from mhim_core.types import BagId

ABMIL_VARIANTS = [
    ModelOptions(embed_dim=16),
    ModelOptions(embed_dim=16, gated=True),
    ModelOptions(embed_dim=16, embed_activation=Activation.relu, attention_activation=Activation.tanh),
]
DSMIL_LINEAR = ModelOptions(embed_dim=16, aggregator="dsmil", dsmil_query=DsmilQuery.linear)
EVERY = [
    *ABMIL_VARIANTS,
    *(ModelOptions(embed_dim=16, aggregator=name) for name in AGGREGATOR_NAMES[1:]),
    DSMIL_LINEAR,
]
WITHOUT_ORDER = [options for options in EVERY if options.aggregator not in ("transmil", "mammil")]
POOLED_BY_ATTENTION = [options for options in EVERY if options.aggregator in ("abmil", "clam-sb", "mean")]
WITH_DISTRIBUTION = [options for options in EVERY if options.aggregator != "transmil"]


MAMMIL_BLOCK = 1024 + 512 * 2320 + 8 * (5 * 1280 + 3 * 16) + 1024 + 1024 * 512
MAMMIL_MESSAGES = 1 + 513 * 1024 + 2 * 1024 + 1025 * 512 + 1024
MAMMIL_ENDS = 1024 + 513 * 128 + 129 + 1026


def bag(num: int, dim: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(options: ModelOptions, mhim: MhimOptions | None = None, seed: str = "s") -> MilModel:
    return build_model(10, 3, options, mhim, seed=seed, dtype=torch.float64)


def num_parameters(options: ModelOptions) -> int:
    return sum(parameter.numel() for parameter in build_model(1024, 2, options, seed="s").parameters())


@pytest.mark.parametrize(
    ("options", "number"),
    [
        (ModelOptions(), 591_490),
        (ModelOptions(gated=True), 591_490 + 512 * 128),
        (ModelOptions(aggregator="transmil"), 2_672_146),
        (ModelOptions(aggregator="dsmil"), 873_734),
        # embedding, linear queries, instance head and head
        (ModelOptions(aggregator="dsmil", dsmil_query=DsmilQuery.linear), 524_800 + 512 * 128 + 2 * 1026),
        (
            ModelOptions(aggregator="mdmil"),
            524_800  # the embedding
            + 1026  # instance head
            + 2 * 512 * 513  # projection, its norm
            + 1024
            + 2 * 512  # learned queries
            + 3 * 1024  # attention to the tiles: norms, q, q', k, v, output
            + 5 * 512 * 256
            + 512
            + 1024  # attention of the queries: norm, q, k, v, output
            + 4 * 512 * 256
            + 512
            + 2 * (1024 + 513 * 4096 + 2049 * 512)  # two feed-forward layers: norm, GEGLU
            + 1024,  # head
        ),
        # CLAM-SB's small form has the embedding and gated attention of 512 → 256, with biases
        (ModelOptions(aggregator="clam-sb"), 524_800 + 2 * (512 * 256 + 256) + 257 + 3 * 1026),
        (ModelOptions(aggregator="clam-mb"), 524_800 + 2 * (512 * 256 + 256) + 2 * 257 + 3 * 1026),
        (ModelOptions(aggregator="mean"), 524_800 + 1026),
        # a Mamba-2 block of 512 × 2,320 and 1,024 × 512 whose 8 branches have 5 × 1,280 + 3 × 16 numbers each
        (ModelOptions(aggregator="mammil"), 524_800 + MAMMIL_BLOCK + MAMMIL_MESSAGES + MAMMIL_ENDS),
        (ModelOptions(aggregator="max"), 524_800 + 1026),
    ],
    ids=lambda value: getattr(value, "aggregator", None),
)
def test_the_models_have_the_papers_number_of_parameters(options: ModelOptions, number: int) -> None:
    assert num_parameters(options) == number


def test_every_name_that_the_source_registers_is_a_class() -> None:
    for name in AGGREGATOR_NAMES:
        assert aggregator_class(name, None) is AGGREGATORS[AggregatorKey(name, None)]


@pytest.mark.parametrize("options", WITHOUT_ORDER)
def test_the_order_of_instances_does_not_matter(options: ModelOptions) -> None:
    model, x = make(options, MhimOptions()), bag(23)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    for append in (False, True):
        output, shuffled = model(x, append), model(x[order], append)
        torch.testing.assert_close(output.logits_C, shuffled.logits_C, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(output.feature_D, shuffled.feature_D, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(output.attention_HN[:, :23][:, order], shuffled.attention_HN[:, :23])


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 6, 7])
def test_the_smallest_bags_give_finite_outputs_of_the_promised_shapes(options: ModelOptions, num: int) -> None:
    model = make(options, MhimOptions())
    for append in (False, True):
        output = model(bag(num), append)
        assert output.logits_C.shape == (3,)
        assert output.feature_D.shape == ((3, 16) if options.aggregator in ("dsmil", "clam-mb", "mdmil") else (16,))
        assert output.attention_HN.shape[1] == num + 5 * append
        for part in (output.logits_C, output.feature_D, output.attention_HN):
            assert part.dtype == torch.float64
            assert torch.isfinite(part).all()


@pytest.mark.parametrize("options", WITH_DISTRIBUTION)
@pytest.mark.parametrize("num", [1, 2, 7])
def test_attention_is_a_distribution_for_each_head(options: ModelOptions, num: int) -> None:
    attention_HN = make(options)(bag(num)).attention_HN
    assert float(attention_HN.detach().min()) >= 0
    torch.testing.assert_close(attention_HN.sum(dim=1), torch.ones(len(attention_HN), dtype=torch.float64))


@pytest.mark.parametrize("options", POOLED_BY_ATTENTION)
@pytest.mark.parametrize("num", [1, 7])
def test_attention_makes_the_bag_embedding(options: ModelOptions, num: int) -> None:
    model, x = make(options), bag(num)
    output = model(x)
    torch.testing.assert_close(output.attention_HN[0] @ model.embed_instances(x), output.feature_D)


@pytest.mark.parametrize("options", [options for options in POOLED_BY_ATTENTION if options.aggregator != "mean"])
def test_instance_evidence_sums_to_the_logits_less_the_bias(options: ModelOptions) -> None:
    model, x = make(options), bag(9)
    h = model.embed_instances(x)
    output = model.aggregator(h)
    evidence = model.aggregator.instance_logits(h, output).sum(dim=0)
    torch.testing.assert_close(evidence + model.aggregator.head.bias, output.logits_C)


@pytest.mark.parametrize("options", EVERY)
def test_gradients_are_those_of_finite_differences(options: ModelOptions) -> None:
    """Through the critical instance and its maximum too, and through the inverse's start."""
    model = make(options).requires_grad_(False)

    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = model(x)
        return output.logits_C, output.feature_D

    assert torch.autograd.gradcheck(both, bag(6).requires_grad_())


@pytest.mark.parametrize("options", EVERY)
def test_every_weight_learns_but_dsmils_unused_head(options: ModelOptions) -> None:
    model, draws = make(options), Draws(0, 0, BagId("a"))
    output = model.aggregator(model.embed_instances(bag(60), draws), draws)
    model.aggregator.task_loss(output.logits_C.square().sum(), output, torch.tensor(1)).backward()
    untouched = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    is_dsmil = options.aggregator == "dsmil" and options != DSMIL_LINEAR
    assert untouched == ({"aggregator.head.weight", "aggregator.head.bias"} if is_dsmil else set())
    # softmax ignores what is added to every energy; CLAM's clusters are learned for the bag's class alone
    idle = ("energy.bias", "instance_heads.0", "instance_heads.2")
    for name, parameter in model.named_parameters():
        if name not in untouched and not any(part in name for part in idle):
            assert parameter.grad is not None
            assert float(parameter.grad.abs().max()) > 1e-9, name


def test_the_recycled_tokens_change_inference_only_where_asked() -> None:
    for options in EVERY:
        model, x = make(options, MhimOptions()), bag(9)
        assert torch.equal(model(x).logits_C, model(x, False).logits_C)
        with_tokens = model(x, True)
        assert with_tokens.attention_HN.shape[1] == 9 + 5
        # the maximum is not changed by tokens that are nowhere the largest
        assert torch.equal(model(x).logits_C, with_tokens.logits_C) is (options.aggregator == "max")


def test_dropout_acts_only_with_draws() -> None:
    for options in EVERY:
        model, x = make(options), bag(9)
        h = model.embed_instances(x)
        assert torch.equal(h, model.embed_instances(x))
        assert (model.embed_instances(x, Draws(0, 0, BagId("a"))) == 0).any()
        plain, again = model.aggregator(h), model.aggregator(h)
        first, repeated, other = (model.aggregator(h, Draws(0, 0, BagId(name))) for name in "aab")
        assert torch.equal(plain.logits_C, again.logits_C)
        assert torch.equal(first.logits_C, repeated.logits_C)
        has_dropout = options.aggregator in ("transmil", "clam-sb", "clam-mb", "mammil")
        assert torch.equal(first.logits_C, other.logits_C) is not has_dropout
        assert torch.equal(first.logits_C, plain.logits_C) is not has_dropout


def test_initialisation_is_xavier_normal_with_zero_biases() -> None:
    model = build_model(1024, 2, ModelOptions(), MhimOptions(), seed="s").requires_grad_(False)
    assert abs(float(model.embed.weight.std()) - (2 / (1024 + 512)) ** 0.5) < 1e-4
    assert float(model.embed.bias.abs().max()) == 0
    assert model.recycle is not None
    assert float(model.recycle.norm.weight.min()) == float(model.recycle.norm.weight.max()) == 1
    bound = queries_bound(512)
    assert 0.95 * bound < float(model.recycle.queries.abs().max()) <= bound


def test_convolutions_start_as_pytorchs_and_the_cls_token_standard_normal() -> None:
    state = build_model(1024, 2, ModelOptions(aggregator="transmil"), seed="s").state_dict()
    state |= build_model(1024, 2, ModelOptions(aggregator="dsmil"), seed="s").state_dict()
    for name, fan_in in (
        ("layer1.attention.res_conv.weight", 33),
        ("positions.conv7.weight", 49),
        ("positions.conv5.bias", 25),
        ("positions.conv3.weight", 9),
        ("bag_head.weight", 2 * 512),
    ):
        largest = float(state[f"aggregator.{name}"].abs().max())
        assert 0.95 * fan_in**-0.5 < largest <= fan_in**-0.5
    assert abs(float(state["aggregator.cls_token"].std()) - 1) < 0.1


@pytest.mark.parametrize("options", EVERY)
def test_a_seed_gives_one_start_whatever_else_the_model_holds(options: ModelOptions) -> None:
    plain, recycling, other = make(options), make(options, MhimOptions()), make(options, seed="t")
    for name, tensor in plain.state_dict().items():
        assert torch.isfinite(tensor).all()
        assert torch.equal(tensor, recycling.state_dict()[name])
        is_drawn = (tensor.dim() > 1 or "conv" in name or "bag_head" in name) and not name.endswith((".skip", "memory"))
        assert torch.equal(tensor, other.state_dict()[name]) is not is_drawn


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    for options in EVERY:
        make(options, MhimOptions())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.thorough
def test_a_bag_of_200_000_instances_takes_bounded_memory() -> None:
    """A square of attention over them would be 160 GB; the features alone are 51 MB embedded."""
    code = (
        "import resource, torch\n"
        "from mhim_core.mil.model import build_model\n"
        "from mhim_core.mil.model_options import ModelOptions\n"
        "from mhim_core.mil.registry import AGGREGATOR_NAMES\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "x, before = torch.randn(200_000, 16), peak()\n"
        "for name in AGGREGATOR_NAMES:\n"
        "    with torch.no_grad():\n"
        "        output = build_model(16, 2, ModelOptions(aggregator=name, embed_dim=64), seed='s')(x)\n"
        "    assert torch.isfinite(output.logits_C).all() and output.attention_HN.shape[1] == 200_000\n"
        "assert peak() - before < 1.5, f'{peak() - before} GiB'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.fault(30)
def test_of_a_large_bag_training_keeps_one_copy_of_what_is_embedded() -> None:
    """By the plain layers it would be three, and three more in between: features of 102 MB, embedded."""
    code = (
        "import resource, torch\n"
        "from mhim_core.mil.draws import Draws\n"
        "from mhim_core.mil.model import build_model\n"
        "from mhim_core.mil.model_options import ModelOptions\n"
        "torch.set_num_threads(1)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "model, draws = build_model(8, 2, ModelOptions(embed_dim=128), seed='s'), Draws(0, 0, 'a')\n"
        "x = torch.randn(200_000, 8)\n"
        "model.embed_instances(x[:40_000], draws).sum().backward()\n"
        "before = peak()\n"
        "h = model.embed_instances(x, draws)\n"
        "h.sum().backward()\n"
        "unit = h.numel() * 4 / 2**30\n"
        "assert peak() - before < 2.5 * unit, f'{(peak() - before) / unit} copies'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
