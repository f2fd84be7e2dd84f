"""Which of the models that a fold has predicts. Standard library only: `mhim --help` reads this."""

from dataclasses import dataclass, field
from enum import StrEnum

# the members are named as a user types them, so that name and value are one word


class PredictWith(StrEnum):
    """student, its teacher, the stage-1 model of the same fold and seed (plain), or the student joined with it."""

    student = "student"
    pair = "pair"
    plain = "plain"
    teacher = "teacher"

    @property
    def model_name(self) -> str:
        """Of the model in evaluations and on pages, where MHIM trained it."""
        return _MODEL_NAMES[self]


_MODEL_NAMES = {
    PredictWith.student: "mhim",
    PredictWith.teacher: "mhim teacher",
    PredictWith.plain: "plain",
    PredictWith.pair: "pair",
}


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """How the models of a run predict; part of its identity, though no fit depends on it."""

    predict_with: PredictWith = field(default=PredictWith.student, metadata={"neutral": PredictWith.student})
    """With method=mhim, the model that is reported, registered and predicts: student; pair: the student and the
    stage-1 model of its fold and seed, of two classes by the mean of their odds, otherwise of their logits; plain: that
    stage-1 model; teacher: the student's moving average. Student, teacher and stage-1 model are evaluated in any case,
    the pair where it predicts."""
