"""A card says everything that a prediction needs, names nobody, and its version follows from its content."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mhim_core.errors import IntegrityError
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json, to_plain
from mhim_core.records import read_record
from mhim_core.registry.card import RegistryCard, TrainedOn
from mhim_core.train.prediction import PredictWith

Make = Callable[..., Any]


def test_a_card_reads_back_as_it_was_written(made: Make) -> None:
    card = made(b"one", b"two").card
    assert RegistryCard.from_bytes(card.to_bytes("lung"), "here") == card
    raw = json.loads(card.to_bytes("lung"))
    assert (raw["name"], raw["version"], raw["files"]) == ("lung", card.version, card.files)


@pytest.mark.parametrize("key", ["estimate", "holdout", "versions", "created_by", "intended_use"])
def test_what_only_describes_is_no_part_of_the_version(made: Make, key: str) -> None:
    card = made().card
    other = replace(card, **{key: "another" if isinstance(getattr(card, key), str) else {"a": "b"}})
    assert other.version == card.version


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unit", "patient"),
        ("encoder_identity", {"id": "toy", "dim": 4, "precision": "half"}),
        ("tiling", {"target_mpp": 1.0}),
        ("recipe", {"method": "plain"}),
    ],
)
def test_what_makes_another_model_makes_another_version(made: Make, key: str, value: object) -> None:
    card = made().card
    assert replace(card, **{key: value}).version != card.version
    assert made(b"other weights").card.version != card.version
    assert made(threshold=0.6).card.version != card.version


def test_no_patient_and_no_slide_is_named(made: Make) -> None:
    text = made().card.to_bytes("lung").decode()
    for canary in ("Mustermann", "Erika", "slide-of"):
        assert canary not in text


def test_whom_a_model_was_trained_on_can_be_asked_by_who_has_the_id(made: Make) -> None:
    facts = made().card.trained_on
    assert facts.knows_patient("Mustermann, Erika")
    assert not facts.knows_patient("Mustermann, Max")
    read = RegistryCard.from_bytes(made().card.to_bytes("lung"), "here").trained_on
    assert read.knows_patient("Mustermann, Erika")
    assert not read.knows_source(SourceIdentity(1, "x"))


def test_digests_of_one_patient_differ_between_cohorts() -> None:
    def of(cohort: str) -> TrainedOn:
        return TrainedOn.of(
            cohort=cohort, feature_set="f", manifest_version=1, manifest_sha256="m", patients=["p"], sources=[]
        )

    assert of("a").patients != of("b").patients
    assert of("a").knows_patient("p")
    assert of("b").knows_patient("p")


def test_whom_the_model_before_knew_a_warm_start_knows_too() -> None:
    def of(cohort: str, patient: str, before: TrainedOn | None = None) -> TrainedOn:
        facts = {"feature_set": "f", "manifest_version": 1, "manifest_sha256": "m"}
        source = SourceIdentity(1, patient)
        return TrainedOn.of(cohort=cohort, patients=[patient], sources=[source], before=before, **facts)  # type: ignore[arg-type]

    third = of("c", "r", of("b", "q", of("a", "p")))
    assert [third.knows_patient(patient) for patient in "pqrs"] == [True, True, True, False]
    assert [third.knows_source(SourceIdentity(1, patient)) for patient in "pqrs"] == [True, True, True, False]
    assert (third.num_patients, len(third.patients), third.cohort) == (1, 3, "c")
    assert read_record(TrainedOn, json.loads(canonical_json(third)), "third") == third
    assert "salt" not in to_plain(of("a", "p")), "cards written before there were warm starts stay what they are"


def test_two_slides_of_one_patient_count_once() -> None:
    sources = [SourceIdentity(1, "a"), SourceIdentity(1, "b")]
    trained = TrainedOn.of(
        cohort="c", feature_set="f", manifest_version=1, manifest_sha256="m", patients=["p", "p"], sources=sources
    )
    assert (trained.num_patients, trained.num_slides) == (1, 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw | {"schema": 99},
        lambda raw: raw | {"tiling": {"target_mpp": 0.25}},
        lambda raw: raw | {"files": {}},
        lambda raw: {key: value for key, value in raw.items() if key != "task"},
        lambda raw: [raw],
    ],
)
@pytest.mark.fault(45)
def test_a_changed_card_is_noticed(made: Make, damage: Callable[[Any], Any]) -> None:
    raw = json.loads(made().card.to_bytes("lung"))
    with pytest.raises(IntegrityError, match="here"):
        RegistryCard.from_bytes(json.dumps(damage(raw)).encode(), "here")


@pytest.mark.fault(45)
def test_another_encoder_beside_the_identity_of_the_first_is_noticed(made: Make) -> None:
    """A pinned version covers the identity; features are made by the card."""
    raw = json.loads(made().card.to_bytes("lung"))
    raw["encoder"] |= dict.fromkeys(raw["encoder_identity"], "another")
    with pytest.raises(IntegrityError, match="its encoder"):
        RegistryCard.from_bytes(json.dumps(raw).encode(), "here")


@pytest.mark.parametrize("choice", [{"temperature": 0.0}, {"temperature": -0.2}, {"threshold": float("nan")}])
def test_what_validation_cannot_have_chosen_is_refused(made: Make, choice: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(choice))):
        replace(made().card.members[0], **choice)


def test_the_models_threshold_is_the_mean_of_its_members(made: Make) -> None:
    card = made(b"one", b"two").card
    first, second = card.members
    members = (replace(first, threshold=0.2), replace(second, threshold=None))
    assert replace(card, members=members).threshold == pytest.approx(0.35)
    three = replace(card.task, classes=("a", "b", "c"))
    assert replace(card, task=three).threshold is None


def test_a_model_without_members_cannot_be(made: Make) -> None:
    with pytest.raises(ValueError, match="at least one member"):
        replace(made().card, members=())


def test_a_pair_names_both_files_and_what_predicts_is_part_of_the_version(made: Make) -> None:
    card = made().card
    member = card.members[0]
    pair = replace(member, predict_with=PredictWith.pair, plain_file="members/plain.safetensors", plain_sha256="cd")
    with_pair, with_teacher = (
        replace(card, members=(other, *card.members[1:]))
        for other in (pair, replace(member, predict_with=PredictWith.teacher))
    )
    assert with_pair.files == card.files | {"members/plain.safetensors": "cd"}
    assert len({each.version for each in (card, with_pair, with_teacher)}) == 3
    assert RegistryCard.from_bytes(with_pair.to_bytes("lung"), "here") == with_pair
    assert [pair.model_name, member.model_name] == ["pair", member.stage]


@pytest.mark.parametrize(
    "wrong",
    [
        {"predict_with": PredictWith.pair},
        {"predict_with": PredictWith.pair, "plain_file": "a"},
        {"plain_file": "a", "plain_sha256": "cd"},
        {"predict_with": PredictWith.plain},
    ],
)
def test_a_member_that_contradicts_itself_is_refused(made: Make, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="stage-1 file"):
        replace(made().card.members[0], **wrong)
