"""What predicts: a run's fold models, or a model of the registry; both have the same interface."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flows.prediction.packaging import PackagedModel, member_results, run_card
from flows.runs.fits import model_names, results_of
from flows.runs.folder import Run
from mhim_core.cohort.task_options import BagUnit
from mhim_core.cohort.tasks import BagMembers, bags_in
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.registry import Weights, card_found_here
from mhim_core.errors import EncoderError, IntegrityError
from mhim_core.registry.card import Member, RegistryCard
from mhim_core.registry.holdout import Holdout, read_holdout
from mhim_core.registry.lookup import find_model
from mhim_core.registry.models import read_member_file
from mhim_core.slides.spec import TileSpec, stored_spec
from mhim_core.storage import Storage
from mhim_core.task import Target, Task
from mhim_core.train.prediction import PredictWith
from mhim_core.train.results import read_model
from mhim_core.types import IMPORTED

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.evaluation.held_out import HeldOut
    from mhim_core.registry.figures import Contender
    from mhim_core.store.bags import PatientBags
    from mhim_core.train.inference import Voter


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Models, and all that is needed to predict new slides with them."""

    origin: dict[str, str]
    """What each prediction says it is by: {run: fingerprint}, or {model: name, version: …}."""
    words: str
    """The same for people: `the run`, `lung@1f0c…`."""
    task: Task
    unit: BagUnit
    encoder: dict[str, Any]
    """The tile encoder's whole card."""
    tiling: dict[str, Any]
    """The tiling's identity."""
    digests: tuple[str, ...]
    """sha256 of the members' weights, in order; of a pair both."""
    fits: tuple[tuple[int, int], ...]
    """Seed and fold of each member."""
    reported: str
    """The model that the members are: mhim, mhim teacher, plain or pair."""
    store: Storage | None
    """The store of the run's own features, if it is where the run says; None for a model, which knows none."""
    make_card: Callable[[], RegistryCard]
    read_file: Callable[[str], bytes]
    holdout: Holdout | None = None
    """The frozen holdout of the model's name, which the gate alone reads; None: a run, or a name that has none."""
    train_targets: tuple[Target, ...] = ()
    """Of the bags that the members were trained on, each once; empty for a model, whose card names no patient."""

    @cached_property
    def card(self) -> RegistryCard:
        """The model's card; of a run, made when it is first asked for (a pass over its validation bags)."""
        return self.make_card()

    @property
    def classes(self) -> tuple[str, ...]:
        """Empty where the task has none."""
        return self.task.classes

    @property
    def by_slide(self) -> bool:
        """Whether a bag is a slide; otherwise it is a patient."""
        return self.unit is BagUnit.slide

    @property
    def is_imported(self) -> bool:
        """Whether it was trained on another tool's features, which cannot be made here."""
        return IMPORTED in self.tiling

    @property
    def num_seeds(self) -> int:
        """How many seeds the members were trained with."""
        return len({seed for seed, _ in self.fits})

    @property
    def num_folds(self) -> int:
        """How many folds the members are of."""
        return len({fold for _, fold in self.fits})

    @cached_property
    def voters(self) -> "list[Voter]":
        """The loaded members. Raises IntegrityError for a file that is gone or damaged, InputError where a plug-in's
        file is not given."""
        return [self._voter(member) for member in self.card.members]

    def _voter(self, member: Member) -> "Voter":
        from mhim_core.train.inference import Voter
        from mhim_core.train.model_file import load_model

        loaded = load_model(self.read_file(member.file))
        if member.predict_with is PredictWith.teacher:
            if loaded.teacher is None:
                raise IntegrityError(f"{self.words}: {member.file} holds no teacher, with which its card predicts")
            return Voter(loaded.teacher, False, loaded.card.task)  # it never sees recycled tokens
        voter = Voter(loaded.student, loaded.card.append_recycled, loaded.card.task)
        if member.predict_with is not PredictWith.pair:
            return voter
        plain = load_model(self.read_file(member.plain_file))
        return voter._replace(beside=Voter(plain.student, plain.card.append_recycled, plain.card.task))

    def tile_spec(self) -> TileSpec:
        """Raises InputError if this version cuts tiles otherwise."""
        return stored_spec(self.tiling, f"the slides of {self.words}")

    def encoder_here(self, weights: Weights | None) -> EncoderCard:
        """The encoder, checked against what can be had here. Raises EncoderError if that is another one."""
        stored = EncoderCard.from_dict(self.encoder)
        available = card_found_here(stored, weights=weights)
        made, present = stored.identity(), available.identity()
        if wrong := sorted(key for key in {*made, *present} if made.get(key) != present.get(key)):
            raise EncoderError(
                f"{self.words} was trained on features of {stored.id} with another {', '.join(wrong)} than is found "
                "here; give the same weights with encoder_weights="
            )
        return stored


def predictor_of_run(run: Run) -> Predictor:
    """All fold models of a finished run. Raises InputError where it is not finished."""
    fits = results_of(run)
    results = member_results(run, fits)
    trained = {slide_id for split in run.splits for slide_id in split.train}
    # the fingerprint says how the run was started to predict, so that what differs from it must be said beside it
    other = {} if run.predict_with is run.started_with else {"predict_with": str(run.predict_with)}
    return Predictor(
        origin={"run": run.record["fingerprint"]} | other,
        words="the run" + "".join(f" with predict_with={choice}" for choice in other.values()),
        task=run.task,
        unit=BagUnit(run.identity["target"]["bags"]),
        encoder=run.record["encoder"],
        tiling=run.record["tiling"],
        digests=tuple(result.model_sha256 for result in results.values()),
        fits=tuple((fold_fits.seed, fold_fits.fold) for fold_fits in fits),
        reported=model_names(run)[0],
        store=run.store_place.storage if run.store_place.is_own else None,
        make_card=lambda: run_card(run, fits),
        read_file=lambda file: read_model(run.storage, results[file]),
        train_targets=tuple(bag.target for bag in bags_in(run.bags, trained)),
    )


def predictor_of_model(registry: Storage, reference: str) -> Predictor:
    """`lung@champion` or `lung@<version>` of a registry, with the holdout of its name; nothing but it is needed.

    Raises ConfigError for what is no such reference, InputError where there is no such model, IntegrityError.
    """
    model = find_model(registry, reference)
    predictor = _of_card(model.card, model.name, lambda file: read_member_file(registry, model, file))
    return dataclasses.replace(predictor, holdout=read_holdout(registry, model.name))


def predictor_of_package(packaged: PackagedModel, name: str) -> Predictor:
    """A model that is not registered yet, such as a challenger on its way to the gate."""
    return _of_card(packaged.card, name, lambda file: packaged.files[file])


def contender(predictor: Predictor, bags: Sequence[BagMembers], source: "PatientBags") -> "Contender":
    """The model with its prediction of every bag of the holdout, for `registry.gate.judge`."""
    from mhim_core.registry.figures import Contender

    return Contender(predictor.card, held_out(predictor, bags, source))


def held_out(predictor: Predictor, bags: Sequence[BagMembers], source: "PatientBags") -> "list[HeldOut]":
    """One row a bag: the members' mean, as the logits that say it. No bag is of the training, or the rows mislead."""
    from mhim_core.evaluation.held_out import HeldOut
    from mhim_core.registry.ensemble import pooled_logits
    from mhim_core.train.inference import predict_tables

    rows = []
    for bag in bags:
        logits_MC = predict_tables(source.read_tables(bag.bag_id), predictor.voters).logits_MC
        logits = pooled_logits(logits_MC, predictor.task.kind)
        rows.append(HeldOut(predictor.words, 0, 0, bag.bag_id, bag.patient_id, bag.site, bag.target, logits))
    return rows


def _of_card(card: RegistryCard, name: str, read_file: Callable[[str], bytes]) -> Predictor:
    return Predictor(
        origin={"model": name, "version": card.version},
        words=f"{name}@{card.version}",
        task=card.task,
        unit=BagUnit(card.unit),
        encoder=card.encoder,
        tiling=card.tiling,
        digests=tuple(sha256 for member in card.members for sha256 in member.files.values()),
        fits=tuple((member.seed, member.fold) for member in card.members),
        reported=card.members[0].model_name,
        store=None,
        make_card=lambda: card,
        read_file=read_file,
    )
