"""The interface of all aggregators; `registry` knows them by name. Shape suffixes: see the package's docstring."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mhim_core.mil.draws import Draws
from mhim_core.mil.model_options import Activation
from mhim_core.mil.packed import Pack, PackedDraws
from mhim_core.mil.registry import register_aggregator as register_aggregator


class BagOutput(NamedTuple):
    """An aggregator's output for one bag."""

    logits_C: Float[Tensor, "C"]
    feature_D: Float[Tensor, "*D"]
    """The bag embedding F: one row, or (DSMIL) one per class."""
    attention_HN: Float[Tensor, "H N"]
    """Attention over the instances of this very forward pass, per head (DSMIL: per class)."""
    auxiliary: Float[Tensor, "..."] | None = None
    """The ingredients of the aggregator's own part of the task loss, in training; None: it has none."""
    values_ND: Float[Tensor, "N D"] | None = None
    """The values that the attention sums up to the bag embedding, from which the evidence of single instances follows;
    None: there are none, or `instance_logits` does not need them."""


class PackedOutput(NamedTuple):
    """An aggregator's output for the bags of a pack; N counts the instances of all of them."""

    logits_BC: Float[Tensor, "B C"]
    feature_BD: Float[Tensor, "B *D"]
    attention_HN: Float[Tensor, "H N"]
    """Each instance's, within its own bag."""
    auxiliary: tuple[Float[Tensor, "..."], ...] | None = None
    """Of each bag."""
    values_ND: Float[Tensor, "N D"] | None = None

    @classmethod
    def of(cls, outputs: Sequence[BagOutput]) -> "PackedOutput":
        """Of bags that were computed one by one."""
        logits, features, attention, auxiliary, values = zip(*outputs, strict=True)
        return cls(
            torch.stack(logits),
            torch.stack(features),
            torch.cat(attention, dim=1),
            None if auxiliary[0] is None else auxiliary,
            None if values[0] is None else torch.cat(values),
        )

    def bags(self, pack: Pack) -> list[BagOutput]:
        """The output of each bag."""
        num = len(pack.lengths)
        auxiliary = [None] * num if self.auxiliary is None else self.auxiliary
        values = [None] * num if self.values_ND is None else pack.split(self.values_ND)
        attention = pack.split(self.attention_HN, dim=1)
        fields = zip(self.logits_BC, self.feature_BD, attention, auxiliary, values, strict=True)
        return [BagOutput(*bag) for bag in fields]

    def as_one_bag(self) -> BagOutput:
        """For what looks at each instance by itself; logits and embedding are no bag's."""
        return BagOutput(self.logits_BC[0], self.feature_BD[0], self.attention_HN, values_ND=self.values_ND)


class SelfStarting(nn.Module):
    """A module with parameters of its own, which `build_model` does not know how to initialise."""

    def start_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        """Initialise a parameter of the class itself, in place; `build_model` initialises the layers."""
        nn.init.normal_(parameter, generator=generator)


class Aggregator(SelfStarting):
    """Instances to a bag's logits. Subclasses have their own classification head, since some have several."""

    head: nn.Linear
    classifies_instances = False
    """True: `instance_logits` are themselves trained as predictions, so that the largest of them is the score."""

    packs = False
    """True: several bags at once take less time than one after another. False: a fit computes them one by one, whatever
    `pack_instances` says, since a pack only keeps more in memory until the backward pass."""
    scores_rows = False
    """True: `instance_logits` and `attention_score` look at each instance by itself, so that they take a pack's as they
    take a bag's; False: they are called bag by bag."""
    scores_by_label = False
    """True: where the bag's class is known, `labelled_score` takes the place of `attention_score`."""
    attends_by_class = False
    """True: the rows of the attention are the classes', in their order, and a heat map is drawn of each."""

    uses_layout = False
    """True: `forward` takes the bag's `Layout` after `draws`; bags of a pack are computed one by one, with theirs."""

    def forward(self, h_ND: Float[Tensor, "N D"], draws: Draws | None = None) -> BagOutput:
        """`draws`: the bag's randomness in training; None: inference, no dropout."""
        raise NotImplementedError

    def forward_packed(self, h_ND: Float[Tensor, "N D"], pack: Pack, draws: PackedDraws | None = None) -> PackedOutput:
        """`forward` of every bag of a pack, here one by one; a subclass may compute them together."""
        of_bags = [None] * len(pack.lengths) if draws is None else draws.of_bags
        return PackedOutput.of([self(*bag) for bag in zip(pack.split(h_ND), of_bags, strict=True)])

    def instance_logits(self, h_ND: Float[Tensor, "N D"], output: BagOutput) -> Float[Tensor, "N C"]:
        """Each instance's own evidence for each class, from the `output` that `h_ND` gave (IJCV 2025, eq. 6-8).

        By default that of `weigh_values`. Every aggregator that mining accepts (`ModelOptions.require_mining`) has it.
        """
        if output.values_ND is None:
            raise NotImplementedError(f"{type(self).__name__} does not weigh single instances")
        return weigh_values(output, self.head)

    def attention_score(self, output: BagOutput) -> Float[Tensor, "H N"]:
        """The score of ICCV 2023: the attention, per head where the heads vote."""
        return output.attention_HN

    def labelled_score(self, output: BagOutput, label_index: Int64[Tensor, ""]) -> Float[Tensor, "H N"]:
        """`attention_score` of a bag whose class is known; called where `scores_by_label` says so."""
        return self.attention_score(output)

    def no_notes(self) -> Float[Tensor, "..."] | None:
        """Zeros in the shape of what `take_notes` returns; None: the aggregator learns by gradient alone.

        Notes are what an aggregator that moves a buffer of its own (MDMIL's memory) keeps of a step's bags. They are
        summed over the global batch in its order, as gradients are, so that the buffer is the same on all workers, and
        for any number of them.
        """
        return None

    def take_notes(self, output: BagOutput, label_index: Int64[Tensor, ""] | None) -> Float[Tensor, "..."] | None:
        """Of one bag's output in training, without gradient."""
        return None

    def learn_notes(self, notes: Float[Tensor, "..."], epoch: int) -> None:
        """Move the buffer, after the optimizer's step; `notes`: their sum, `epoch`: finished ones."""
        raise NotImplementedError

    def task_loss(
        self, bag_loss: Float[Tensor, ""], output: BagOutput, label_index: Int64[Tensor, ""] | None
    ) -> Float[Tensor, ""]:
        """The bag's loss together with the aggregator's own, where it has one.

        `label_index`: the bag's class; None where the task is survival or regression.
        """
        return bag_loss

    def task_losses(
        self, bag_loss_B: Float[Tensor, "B"], output: PackedOutput, pack: Pack, label_index_B: Int64[Tensor, "B"] | None
    ) -> Float[Tensor, "B"]:
        """`task_loss` of every bag of a pack."""
        if type(self).task_loss is Aggregator.task_loss:
            return bag_loss_B
        labels = [None] * len(bag_loss_B) if label_index_B is None else label_index_B
        bags = zip(bag_loss_B, output.bags(pack), labels, strict=True)
        return torch.stack([self.task_loss(*bag) for bag in bags])


def weigh_values(output: BagOutput, head: nn.Linear) -> Float[Tensor, "N C"]:
    """l_n = W_p(a_n v_n), a the mean over heads, without the head's bias: softmax over classes would cancel it.

    The output has values.
    """
    assert output.values_ND is not None
    return output.attention_HN.mean(dim=0)[:, None] * (output.values_ND @ head.weight.T)


def make_activation(activation: Activation) -> nn.Module:
    """The module of that name."""
    return {Activation.gelu: nn.GELU, Activation.relu: nn.ReLU, Activation.tanh: nn.Tanh}[activation]()
