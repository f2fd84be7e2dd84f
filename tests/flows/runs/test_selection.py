"""Which models of a run score a slide's tiles: none that knows the slide's patient, if there is another."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.runs.folder import known_key
from flows.runs.selection import _voters
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.splits import Split
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.registry.card import TrainedOn
from mhim_core.storage import LocalStorage
from mhim_core.types import PatientId, SlideId


def row(slide: str, patient: str) -> CohortRow:
    return CohortRow(SlideId(slide), "", PatientId(patient))


def commits(**content_of: str) -> Any:
    return {
        slide: SimpleNamespace(reading=SimpleNamespace(source=SourceIdentity(1, content)))
        for slide, content in content_of.items()
    }


def make_run(root: Path, before: TrainedOn | None = None) -> Any:
    """Two folds of two patients with a slide each: fold i holds patient i out."""
    storage, identity = LocalStorage(root), {}
    if before is not None:
        identity = {"warm_start": {"trained_on": fingerprint(before)}}
        storage.put(known_key(fingerprint(before)), canonical_json(before))
    return SimpleNamespace(
        storage=storage,
        identity=identity,
        slides=(row("a", "P0"), row("b", "P1")),
        splits=(Split(0, (SlideId("b"),), (), (SlideId("a"),)), Split(1, (SlideId("a"),), (), (SlideId("b"),))),
        manifest=SimpleNamespace(entries=commits(a="of a", b="of b")),
    )


@pytest.mark.parametrize(
    ("slide", "patient", "places"),
    [
        ("a", "P0", (0,)),
        ("a", "renamed", (0,)),
        ("later", "P0", (0,)),
        ("renamed", "too", (0,)),
        ("re-embedded", "P1", (1,)),
        ("stranger", "P9", None),
    ],
)
def test_a_slide_is_scored_by_models_that_held_its_patient_out_whatever_its_names_are_by_now(
    tmp_path: Path, slide: str, patient: str, places: tuple[int, ...] | None
) -> None:
    # the run's manifest has neither the renamed slide nor what was embedded later
    records = commits(a="new scan of a", renamed="of a", later="of another", stranger="of a stranger")
    voters = _voters(make_run(tmp_path), [0, 1], [row(slide, patient)], records)
    assert voters == ({} if places is None else {slide: places})


def test_patients_of_the_model_that_a_run_started_from_are_known_to_all_of_its_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = TrainedOn.of(
        cohort="c",
        feature_set="f",
        manifest_version=1,
        manifest_sha256="m",
        patients=["P0", "P8"],
        sources=[SourceIdentity(1, "of c")],
    )
    rows = [row("a", "P0"), row("b", "P1"), row("new", "P8"), row("c", "renamed"), row("stranger", "P9")]
    voters = _voters(make_run(tmp_path, before), [0, 1], rows, commits(c="of c"))
    assert voters == {"b": (1,)}, "of P0, P8 and c every model knows the label"
    assert "note: 3 slides" in capsys.readouterr().out
