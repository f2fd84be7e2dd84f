"""A user's own aggregator from a file."""

import hashlib
import os
import pickle
import textwrap
from pathlib import Path

import pytest
import torch

from mhim_core.errors import ConfigError, InputError
from mhim_core.mil.draws import Draws
from mhim_core.mil.model import MilModel, build_model
from mhim_core.mil.model_options import MhimOptions, ModelOptions, Score
from mhim_core.mil.plugged import PluggedAggregator
from mhim_core.mil.plugins import Plugin, load_plugin, read_plugin
from mhim_core.mil.probe import check_plugin
from mhim_core.mil.registry import AGGREGATORS, register_aggregator
from mhim_core.mil.scoring import score_instances
from mhim_core.task import Task, TaskKind
from mhim_core.types import BagId

CLASSES = Task(kind=TaskKind.classification, classes=("a", "b", "c"))
VALUE = Task(kind=TaskKind.regression)

FILE = """
import torch
from torch import nn
from mhim_core.mil.aggregator import BagOutput, register_aggregator

@register_aggregator("{name}")
class Mine(nn.Module):
    def __init__(self, num_classes, options):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(options.embed_dim))
        self.energy = nn.Linear(options.embed_dim, 2)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(options.embed_dim, num_classes)

    def forward(self, h_ND):
        values_ND = self.dropout(h_ND * self.scale)
        attention_HN = self.energy(h_ND).T.softmax(dim=1)
        feature_D = (attention_HN @ values_ND).mean(dim=0)
        return BagOutput(self.head(feature_D), feature_D, attention_HN, values_ND=values_ND)
"""


def source(name: str = "mine", **replaced: str) -> bytes:
    """The file with some of its text replaced: `old__` keys are looked up in OLD."""
    text = FILE.replace("{name}", name)
    for key, new in replaced.items():
        assert OLD[key] in text
        text = text.replace(OLD[key], new)
    return text.encode()


OLD = {
    "result": "return BagOutput(self.head(feature_D), feature_D, attention_HN, values_ND=values_ND)",
    "values": ", values_ND=values_ND)",
    "attention": "self.energy(h_ND).T.softmax(dim=1)",
    "dropout": "self.dropout = nn.Dropout(0.5)",
    "weighted": "self.dropout(h_ND * self.scale)",
    "head": "self.head",
    "forward": "    def forward(self, h_ND):",
}


def load(name: str = "mine", **replaced: str) -> Plugin:
    return load_plugin(source(name, **replaced), f"/home/me/{name}.py")


def options(name: str = "mine") -> ModelOptions:
    return ModelOptions(aggregator=name, embed_dim=16)


def check(plugin: Plugin, task: Task = CLASSES, mining: bool = False) -> None:
    check_plugin(plugin, options(plugin.names[0]), task, mining=mining, dtype=torch.float64)


def bag(num: int = 9) -> torch.Tensor:
    return torch.randn(num, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(num))


def make(name: str = "mine", seed: str = "s") -> MilModel:
    return build_model(10, 3, options(name), MhimOptions(), seed=seed, dtype=torch.float64)


def test_two_lines_make_a_users_module_an_aggregator() -> None:
    plugin = load()
    assert plugin.names == ("mine",)
    assert plugin.sha256 == hashlib.sha256(source()).hexdigest()
    assert options().plugin_sha256 == plugin.sha256
    output = make()(bag())
    assert output.logits_C.shape == (3,)
    assert output.attention_HN.shape == (2, 9)


@pytest.mark.parametrize("task", [CLASSES, VALUE, Task(kind=TaskKind.survival)])
@pytest.mark.parametrize("mining", [False, True])
def test_a_module_with_attention_and_values_is_fit_for_training_and_mining(task: Task, mining: bool) -> None:
    check(load(), task, mining)


def test_its_evidence_is_its_heads_of_the_weighed_values_without_the_bias() -> None:
    load()
    model = make().requires_grad_(False)
    aggregator = model.aggregator
    assert isinstance(aggregator, PluggedAggregator)
    h = model.embed_instances(bag())
    output = aggregator(h)
    logits = aggregator.instance_logits(h, output)
    torch.testing.assert_close(logits.sum(dim=0) + aggregator.module.head.bias, output.logits_C)
    for score in Score:
        heads = 2 if score is Score.attention else 1
        assert score_instances(model, h, output, score).shape == (heads, 9)


def test_its_dropout_acts_in_training_alone_and_is_keyed_by_the_bag() -> None:
    load()
    aggregator, h = make().aggregator, torch.randn(9, 16, dtype=torch.float64)
    before = torch.get_rng_state()
    first, again, other = (aggregator(h, Draws(0, 0, BagId(name))).logits_C for name in "aab")
    plain, repeated = aggregator(h).logits_C, aggregator(h).logits_C
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(plain, repeated)
    assert not torch.equal(first, plain)
    assert torch.equal(before, torch.get_rng_state())


def test_its_start_is_its_constructors_and_a_function_of_the_seed() -> None:
    load()
    before = torch.get_rng_state()
    first, again, other = make().state_dict(), make().state_dict(), make(seed="t").state_dict()
    scale = "aggregator.module.scale"
    assert 0 <= float(first[scale].min()) < float(first[scale].max()) <= 1
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first[scale], other[scale])
    assert torch.equal(before, torch.get_rng_state())


def test_weights_come_back_into_a_model_laid_out_without_memory() -> None:
    """As a model file is read."""
    load()
    model = make()
    with torch.device("meta"):
        empty = MilModel(10, 3, options(), MhimOptions())
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty(bag()).logits_C, model(bag()).logits_C)


def test_a_module_may_take_the_draws_and_have_methods_of_its_own() -> None:
    own = """
    classifies_instances = True

    def instance_logits(self, h_ND, output):
        return self.head(h_ND)

    def attention_score(self, output):
        return output.attention_HN[:1]

    def task_loss(self, bag_loss, output, label_index):
        return 2 * bag_loss

    def forward(self, h_ND, draws=None):
        h_ND = h_ND if draws is None else draws.dropout("mine", h_ND, 0.5)"""
    plugin = load("with-draws", forward=own, values=")")
    check(plugin, mining=True)
    model = make("with-draws")
    h = model.embed_instances(bag())
    output = model.aggregator(h)
    scores = score_instances(model, h, output, Score.margin)
    torch.testing.assert_close(scores[0], model.aggregator.instance_logits(h, output).amax(dim=1).detach())
    assert score_instances(model, h, output, Score.attention).shape == (1, 9)
    assert float(model.aggregator.task_loss(torch.tensor(3.0), output, None)) == 6
    assert (model.aggregator(h, Draws(0, 0, BagId("a"))).values_ND) is None


def test_a_file_is_run_once_and_travels_to_workers_by_its_bytes(tmp_path: Path) -> None:
    counted = b"import os; os.mkdir(%r)\n" % str(tmp_path / "once") + source("counted")
    plugin = pickle.loads(pickle.dumps(load_plugin(counted, "first.py")))
    assert load_plugin(*plugin.arguments) == plugin
    assert (tmp_path / "once").is_dir()  # made twice, it would have failed


def test_two_versions_of_a_file_live_side_by_side_and_the_newest_name_wins() -> None:
    first = load("versioned")
    old = options("versioned")
    second = load("versioned", dropout="self.dropout = nn.Dropout(0.25)")
    assert first.sha256 != second.sha256
    assert (old.plugin_sha256, options("versioned").plugin_sha256) == (first.sha256, second.sha256)
    rates = [
        build_model(10, 3, version, seed="s").aggregator.module.dropout.p  # type: ignore[union-attr]
        for version in (old, options("versioned"))
    ]
    assert rates == [0.5, 0.25]


def test_options_read_from_a_card_need_no_file_but_a_model_does() -> None:
    load()
    stored = ModelOptions(aggregator="mine", plugin_sha256="0" * 64)
    with pytest.raises(InputError, match=r"sha256 0000.* not loaded \(another version.*\); .*aggregator_file="):
        MilModel(10, 3, stored)
    stranger = ModelOptions(aggregator="never-loaded", plugin_sha256="0" * 64)
    with pytest.raises(InputError, match=r"'never-loaded'.* sha256 0000.* not loaded; give that file with"):
        MilModel(10, 3, stranger)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"aggregator": "unheard-of"}, "aggregator='unheard-of' is unknown; .*abmil.*aggregator_file="),
        ({"aggregator": "abmil", "plugin_sha256": "0" * 64}, "aggregator=abmil is built in"),
        ({"aggregator": "mine", "plugin_sha256": "abc"}, "plugin_sha256='abc' must be 64"),
    ],
)
def test_names_without_a_file_are_refused(wrong: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ModelOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", r"own\.py: it registers no aggregator; put @register_aggregator"),
        ("x = 1\ny = (\n", r"own\.py, line 2: SyntaxError: "),
        ("x = 1\n\nimport nowhere_to_be_found\n", r"own\.py, line 3: ModuleNotFoundError: No module"),
        ("def f():\n    return 1 / 0\nf()\n", r"own\.py, line 2: ZeroDivisionError"),
        ("import sys\nsys.exit(0)\n", r"own\.py, line 2: SystemExit"),
        ("\0", r"own\.py.*null bytes"),
        (source("abmil").decode(), r"own\.py, line 6: the aggregator 'abmil' is built in; register yours"),
        (source("A b").decode(), r"own\.py, line 6: the aggregator name 'A b' must be of a-z"),
        (
            (source("twice") + source("twice")).decode(),
            r"own\.py, line \d+: .* 'twice' is registered twice",
        ),
        (
            source("choosy").decode().replace('"choosy"', '"choosy", options=dict'),
            r"own\.py, line 6: .* 'choosy': a plug-in has no options",
        ),
    ],
)
def test_a_file_that_fails_says_where_and_registers_nothing(text: str, reason: str) -> None:
    before = set(AGGREGATORS)
    with pytest.raises(InputError, match=reason):
        load_plugin(text.encode(), "own.py")
    assert set(AGGREGATORS) == before


def test_a_file_is_read_from_a_path_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(source("from-path"))
    assert read_plugin(str(path)).names == ("from-path",)
    with pytest.raises(InputError, match=r"aggregator_file=.*gone\.py cannot be read: No such file"):
        read_plugin(str(tmp_path / "gone.py"))


def test_a_pipe_a_device_or_a_file_without_end_in_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(2**40)
    for path, said in ((tmp_path / "pipe.py", "pipe"), ("/dev/zero", "device"), (tmp_path / "huge.py", "more than")):
        with pytest.raises(InputError, match=f"^aggregator_file={path} cannot be read: .*{said}"):
            read_plugin(str(path))


def test_importing_a_file_as_a_module_registers_nothing() -> None:
    @register_aggregator("imported")
    class Imported:
        pass

    assert Imported.__name__ == "Imported"
    assert "imported" not in {key.name for key in AGGREGATORS}


BROKEN = {
    "tuple": ({"result": "return (feature_D, attention_HN)"}, "its forward returns tuple, not a BagOutput"),
    "no-heads": (
        {"result": OLD["result"].replace("attention_HN", "attention_HN[0]")},
        "attention_HN must have two axes",
    ),
    "turned": ({"attention": "self.energy(h_ND).softmax(dim=0)"}, r"line \d+: RuntimeError"),
    "one-logit": (
        {"result": OLD["result"].replace("(feature_D),", "(feature_D)[:1],")},
        r"logits_C is of shape \(1,\)",
    ),
    "nan": ({"attention": "self.energy(h_ND).T.softmax(dim=1) / 0"}, "is NaN or infinite"),
    "float32": ({"values": ", values_ND=values_ND.float())"}, r"values_ND is torch\.float32"),
    "detached": ({"weighted": "(h_ND * self.scale).detach()", "attention": OLD["attention"] + ".detach()"}, "gradient"),
    "unkeyed": ({"weighted": "h_ND * self.scale * __import__('random').random()"}, "gave two results"),
    "stateful": ({"dropout": "self.dropout = nn.BatchNorm1d(16)"}, "int64, of which .* use LayerNorm"),
    "remembers": ({"weighted": "h_ND * self.scale.data.mul_(2)"}, "a forward pass changes module.scale"),
    "crash": ({"weighted": "h_ND * self.scales"}, r"line 16: AttributeError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_module_that_cannot_be_trained_is_refused_at_the_start(name: str) -> None:
    replaced, reason = BROKEN[name]
    with pytest.raises(ConfigError, match=rf"aggregator={name} of /home/me/{name}\.py.*{reason}"):
        check(load(name, **replaced))


@pytest.mark.parametrize(
    ("name", "replaced", "reason"),
    [
        (
            "no-values",
            {"values": ")"},
            "does not say what each is worth: return values_ND .* or define instance_logits",
        ),
        ("no-head", {"head": "self.classifier"}, "name its classification head `head`"),
        ("narrow", {"values": ", values_ND=values_ND[:, :3])"}, r"values_ND is of shape \(1, 3\), expected \(1, 16\)"),
        (
            "short",
            {"forward": "    def instance_logits(self, h, output):\n        return h[:, :2]\n\n" + OLD["forward"]},
            r"instance_logits is of shape \(1, 2\), expected \(1, 3\)",
        ),
    ],
)
def test_mining_refuses_a_module_that_does_not_weigh_instances_and_plain_takes_it(
    name: str, replaced: dict[str, str], reason: str
) -> None:
    plugin = load(name, **replaced)
    check(plugin)
    with pytest.raises(ConfigError, match=reason):
        check(plugin, mining=True)


def test_a_constructor_that_fails_is_blamed_with_its_line() -> None:
    plugin = load("needs-more", dropout="self.dropout = nn.Dropout(options.rate)")
    with pytest.raises(ConfigError, match=r"needs-more\.py, line 12: AttributeError: .*rate"):
        check(plugin)


def test_a_class_derived_from_our_aggregator_is_taken_as_it_is() -> None:
    text = """
    from torch import nn
    from mhim_core.mil.aggregator import Aggregator, BagOutput, register_aggregator

    @register_aggregator("derived")
    class Derived(Aggregator):
        def __init__(self, num_classes, options):
            super().__init__()
            self.head = nn.Linear(options.embed_dim, num_classes)

        def forward(self, h_ND, draws=None):
            attention_HN = h_ND.square().sum(dim=1)[None].softmax(dim=1)
            feature_D = (attention_HN @ h_ND)[0]
            return BagOutput(self.head(feature_D), feature_D, attention_HN, values_ND=h_ND)
    """
    check(load_plugin(textwrap.dedent(text).encode(), "derived.py"), mining=True)
