import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import HfApi, constants, errors

from mhim_core.embed import hub
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import EncoderError

COMMIT = "1234567890" * 4
NAME = "timm/mobilenetv2_100.ra_in1k"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_without_network_the_refusal_is_quick_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    started_s = time.monotonic()
    with pytest.raises(EncoderError, match=r"HF_HUB_OFFLINE.*encoder_weights="):
        encoder_card(NAME)
    assert time.monotonic() - started_s < 60  # timm's import included


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (
            errors.GatedRepoError("401", response=httpx2.Response(401, request=httpx2.Request("GET", "https://x"))),
            "gates",
        ),
        (
            errors.RepositoryNotFoundError(
                "404", response=httpx2.Response(404, request=httpx2.Request("GET", "https://x"))
            ),
            "no repository timm/mobilenetv2_100.ra_in1k",
        ),
        (
            errors.RevisionNotFoundError(
                "404", response=httpx2.Response(404, request=httpx2.Request("GET", "https://x"))
            ),
            "no revision",
        ),
        (httpx2.ConnectError("Name or service not known"), "cannot reach the hub"),
        (TimeoutError("timed out"), "cannot reach the hub"),
    ],
)
def test_every_refusal_of_the_hub_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, complaint: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(EncoderError, match=complaint) as caught:
        hub.fetch("timm/mobilenetv2_100.ra_in1k", None)
    assert "\n" not in str(caught.value)


def test_a_bug_in_between_is_not_called_a_network_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(AttributeError, match="a bug"):
        hub.fetch("timm/x", None)


def test_a_repository_without_a_timm_config_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    info = SimpleNamespace(sha=COMMIT, card_data=None, siblings=[SimpleNamespace(rfilename="model.safetensors")])
    monkeypatch.setattr(HfApi, "model_info", lambda *args, **kwargs: info)
    with pytest.raises(EncoderError, match="not a timm model"):
        hub.fetch("somebody/something", None)


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_what_the_cache_holds_needs_no_network_and_is_pinned(
    empty_cache: Path, mobilenet_weights: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = empty_cache / "models--timm--mobilenetv2_100.ra_in1k"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    shutil.copy(mobilenet_weights, snapshot / "model.safetensors")
    config = {"architecture": "mobilenetv2_100", "num_features": 1280, "model_args": {"pad_type": "same"}}
    (snapshot / "config.json").write_text(json.dumps(config))

    card = encoder_card(NAME, revision=revision)
    assert card.revision == COMMIT
    assert card.source == "https://huggingface.co/timm/mobilenetv2_100.ra_in1k"
    assert card.network["args"] == {"pad_type": "same"}


def test_a_model_timm_does_not_know_is_answered_with_its_neighbours() -> None:
    with pytest.raises(EncoderError, match=r"did you mean .*timm/resnet50"):
        encoder_card("timm/resnet5O")
