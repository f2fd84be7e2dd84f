"""Published checkpoints as models; which there are is said in `formats`, a file each, and so is how they are written.

What a tensor's name and shape say is taken from there: the aggregator, the features of a tile, D, C and k. Activations
are in no tensor, so the reader says them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mhim_core.errors import InputError
from mhim_core.mil.checkpoint_format import DEFAULT_FORMAT, CheckpointFormat, checkpoint_format, formats_to_read
from mhim_core.mil.checkpoint_format import PublishedModel as PublishedModel
from mhim_core.mil.formats.mhim_mil import save_published as save_published
from mhim_core.mil.model import MilModel
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.mil.pt_file import read_states


def load_published(data: bytes, options: ModelOptions | None = None) -> PublishedModel:
    """Read a `.pt` file's bytes: a state dict, or a dict that holds one under `model` and perhaps one under `teacher`.

    `options`: for what no tensor says (activations; by default those of v2, and always ReLU for CLAM); aggregator and D
    are the file's. Recycle weights that the teacher lacks are the student's. Raises InputError where the file holds
    more than tensors and plain data, or tensors (listed) that no format has.
    """
    states = read_states(data)
    model = _describe(states.student, options or ModelOptions())
    if states.teacher is None:
        return model
    teacher = model.student | _format_of(states.teacher).read(states.teacher).state
    _check_shapes(teacher, model, "teacher")
    return model._replace(teacher=teacher)


def _format_of(tensors: Mapping[str, Tensor]) -> CheckpointFormat:
    """The first format that recognises the tensors; if none does, the published code's, whose error lists them."""
    recognised = (entry for entry in formats_to_read() if entry.recognises(tensors))
    return next(recognised, checkpoint_format(DEFAULT_FORMAT))


def _describe(tensors: Mapping[str, Tensor], options: ModelOptions) -> PublishedModel:
    weights = _format_of(tensors).read(tensors)
    state = weights.state
    dtypes = {tensor.dtype for tensor in state.values()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise InputError(f"the checkpoint's tensors are of {sorted(map(str, dtypes))}; expected one kind of float")
    embed_dim, d_in = state["embed.weight"].shape
    model = PublishedModel(
        options=ModelOptions(
            aggregator=weights.aggregator,
            embed_dim=embed_dim,
            embed_activation=weights.embed_activation or options.embed_activation,
            attention_activation=options.attention_activation,
        ),
        d_in=d_in,
        num_outputs=len(state["aggregator.head.bias"]),
        recycle_queries=len(state["recycle.queries"]) if "recycle.queries" in state else None,
        dtype=dtypes.pop(),
        student=state,
        teacher=None,
    )
    _check_shapes(state, model, "model")
    return model


def _check_shapes(state: Mapping[str, Tensor], model: PublishedModel, role: str) -> None:
    """Names are known to fit by now; do the shapes, for the aggregator as we build it?"""
    mhim = None if model.recycle_queries is None else MhimOptions(recycle_queries=model.recycle_queries)
    with torch.device("meta"):
        expected = MilModel(model.d_in, model.num_outputs, model.options, mhim).state_dict()
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    unmatched = sorted(set(expected) ^ set(state))
    if wrong or unmatched:
        raise InputError(
            f"the {role} of the checkpoint is no {model.options.aggregator} of D={model.options.embed_dim}, "
            f"C={model.num_outputs} as published: {'; '.join(wrong) or ', '.join(unmatched)}"
        )
