"""Cards and files made up: nothing is trained here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import sha256
from mhim_core.registry.card import Member, RegistryCard, TrainedOn
from mhim_core.registry.models import register_model
from mhim_core.storage import LocalStorage, Storage
from mhim_core.task import Task, TaskKind

TASK = Task(kind=TaskKind.classification, classes=("normal", "tumour"))
RECIPE = {
    "method": "mhim",
    "model": {"aggregator": "abmil", "dropout": 0.25},
    "fit": {"epochs": 20, "seed": 2021, "learning_rate": 2e-4},
    "seeds": [2021],
}


class Made(NamedTuple):
    """A model made up."""

    card: RegistryCard
    files: dict[str, bytes]


def trained_on(*patients: str, cohort: str = "cohort-1") -> TrainedOn:
    """Of one slide a patient."""
    return TrainedOn.of(
        cohort=cohort,
        feature_set="features-1",
        manifest_version=3,
        manifest_sha256="sha-of-manifest",
        patients=patients,
        sources=[SourceIdentity(10, f"slide-of-{patient}") for patient in patients],
    )


@pytest.fixture
def made() -> Callable[..., Made]:
    """made(b"weights", …): a card of as many members, with what else is given."""

    def make(*weights: bytes, threshold: float | None = 0.4, **changes: Any) -> Made:
        files = {f"members/seed-{index}.safetensors": data for index, data in enumerate(weights or (b"weights",))}
        members = tuple(
            Member(
                file=file,
                sha256=sha256(data),
                seed=index,
                fold=0,
                stage="mhim",
                append_recycled=False,
                temperature=2.0,
                threshold=threshold,
            )
            for index, (file, data) in enumerate(files.items())
        )
        card = RegistryCard(
            task=TASK,
            unit="slide",
            members=members,
            encoder={"id": "toy", "dim": 4, "source": "made up"},
            encoder_identity={"id": "toy", "dim": 4},
            tiling={"target_mpp": 0.5},
            recipe=RECIPE,
            trained_on=trained_on("Mustermann, Erika"),
        )
        return Made(replace(card, **changes), files)

    return make


@pytest.fixture
def storage(tmp_path: Any) -> Storage:
    return LocalStorage(tmp_path / "registry")


@pytest.fixture
def registered(storage: Storage, made: Callable[..., Made]) -> Callable[[bytes], str]:
    """registered(b"weights") → the version of a model `lung` in the registry."""

    def register(weights: bytes) -> str:
        return register_model(storage, "lung", *made(weights)).version

    return register
