"""Is a user's aggregator fit for training? Tried on made-up bags before any work. Shape suffixes: see the package's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mhim_core.errors import ConfigError, InputError
from mhim_core.mil.aggregator import BagOutput
from mhim_core.mil.draws import Draws
from mhim_core.mil.model import make_aggregator
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.plugged import PluggedAggregator
from mhim_core.mil.plugins import Plugin
from mhim_core.task import Task, TaskKind
from mhim_core.types import BagId
from mhim_core.user_code import failing_line

BAG_SIZES = (1, 6)


def check_plugin(
    plugin: Plugin, options: ModelOptions, task: Task, *, mining: bool, dtype: torch.dtype = torch.float32
) -> None:
    """Make the aggregator and pass small random bags of N×D through it as training and inference do.

    `mining`: it will be trained with masked hard instance mining, and so must weigh single instances. Raises
    ConfigError that says what is wrong: a shape, a dtype, numbers that are not finite, a state that a forward pass
    changes, randomness that is not keyed, no gradient, or (`mining`) no way to the evidence of an instance.
    """
    with _blamed(plugin, options):
        aggregator = make_aggregator(task.num_outputs, options).to(dtype)
        assert isinstance(aggregator, PluggedAggregator)
        _check_state(aggregator.module)
        for num in BAG_SIZES:
            generator = torch.Generator().manual_seed(num)
            h_ND = torch.randn(num, options.embed_dim, generator=generator, dtype=dtype).requires_grad_()
            _check_forward(aggregator, h_ND, task)
            if mining:
                _check_mining(aggregator, h_ND, task.num_outputs)


def _check_state(module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        _require(
            tensor.is_floating_point(),
            f"{name} is {tensor.dtype}, of which the teacher can take no moving average; if it is batch "
            "normalisation's, use LayerNorm",
        )
        _require(bool(torch.isfinite(tensor).all()), f"{name} starts with values that are NaN or infinite")


def _check_forward(aggregator: PluggedAggregator, h_ND: Tensor, task: Task) -> None:
    before = {name: tensor.clone() for name, tensor in aggregator.state_dict().items()}
    draws = Draws(0, 0, BagId("probe"))
    output, again = aggregator(h_ND, draws), aggregator(h_ND, draws)
    for candidate in (output, aggregator(h_ND)):
        _check_output(candidate, len(h_ND), task.num_outputs, h_ND.dtype)
    changed = [name for name, tensor in aggregator.state_dict().items() if not torch.equal(tensor, before[name])]
    _require(
        not changed,
        f"a forward pass changes {', '.join(changed)}, as batch normalisation does: bags of different workers would "
        "give different models; use LayerNorm",
    )
    _require(
        torch.equal(output.logits_C, again.logits_C) and torch.equal(aggregator(h_ND)[0], aggregator(h_ND)[0]),
        "the same bag gave two results; draw with torch's global generator or from `draws`, and only in training",
    )
    label_index = torch.tensor(0) if task.kind is TaskKind.classification else None
    loss = aggregator.task_loss(output.logits_C.square().sum(), output, label_index)
    gradient, *_ = torch.autograd.grad(loss + output.feature_D.square().sum(), [h_ND], allow_unused=True)
    reached = gradient is not None and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
    _require(reached, "no finite gradient of its logits and feature_D reaches the instances; is something detached?")


def _check_output(output: BagOutput, num: int, num_outputs: int, dtype: torch.dtype) -> None:
    _require_shape("logits_C", output.logits_C, (num_outputs,))
    _require(output.feature_D.dim() in (1, 2), f"feature_D has {output.feature_D.dim()} axes, expected D or rows × D")
    _require(output.attention_HN.dim() == 2, "attention_HN must have two axes, heads × instances; one head: 1 × N")
    _require_shape("attention_HN", output.attention_HN, (len(output.attention_HN), num))
    for name in ("logits_C", "feature_D", "attention_HN", "values_ND"):
        tensor = getattr(output, name)
        if tensor is not None:
            _require(tensor.dtype == dtype, f"{name} is {tensor.dtype}, the instances are {dtype}")
            _require(bool(torch.isfinite(tensor).all()), f"{name} of a bag of {num} instances is NaN or infinite")


def _check_mining(aggregator: PluggedAggregator, h_ND: Tensor, num_outputs: int) -> None:
    output = aggregator(h_ND)
    if not hasattr(aggregator.module, "instance_logits"):
        head = getattr(aggregator.module, "head", None)
        values_ND = output.values_ND
        if values_ND is None or not isinstance(head, nn.Linear):
            raise ConfigError(
                "method=mhim ranks single instances, and this aggregator does not say what each is worth: return "
                "values_ND (what the attention weighs) in its BagOutput and name its classification head `head` (an "
                "nn.Linear), or define instance_logits(h_ND, output); method=plain trains it as it is"
            )
        _require_shape("values_ND", values_ND, (len(h_ND), head.in_features))
    logits_NC = aggregator.instance_logits(h_ND, output)
    _require_shape("instance_logits", logits_NC, (len(h_ND), num_outputs))
    _require(bool(torch.isfinite(logits_NC).all()), f"instance_logits of {len(h_ND)} instances are NaN or infinite")


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    _require(tuple(tensor.shape) == shape, f"{name} is of shape {tuple(tensor.shape)}, expected {shape}")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ConfigError(otherwise)


@contextmanager
def _blamed(plugin: Plugin, options: ModelOptions) -> Iterator[None]:
    """Attribute every error in the block to the file, with its line."""
    try:
        yield
    except Exception as error:
        line = "" if isinstance(error, InputError) else failing_line(error, plugin.file_name)
        words = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"aggregator={options.aggregator} of {plugin.file_name}{line}: {words}") from error
