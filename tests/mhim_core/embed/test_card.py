import dataclasses
import pickle

import pytest

from mhim_core.embed.card import EncoderCard
from mhim_core.errors import EncoderError
from mhim_core.fingerprint import fingerprint


def make_card(**changes: object) -> EncoderCard:
    fields = {
        "id": "timm/x",
        "source": "https://example.org",
        "weights_sha256": "ab" * 32,
        "revision": "0" * 40,
        "licence": "Apache-2.0",
        "pooling": "avg",
        "network": {"timm_model": "x", "args": {"pad_type": "same"}},
        "transform": {"input_px": 224, "mean": [0.5, 0.5, 0.5]},
        "dim": 16,
    }
    return EncoderCard(**(fields | changes))


def test_the_identity_of_a_card_never_changes_by_accident() -> None:
    assert fingerprint(make_card().identity()) == "119465e0bd8f0f15496f20fdc3c61553d5e717304e13645c91451e6ba81a8245"


@pytest.mark.parametrize("field", ["source", "revision", "licence"])
def test_where_the_same_weights_come_from_is_not_identity(field: str) -> None:
    assert make_card(**{field: "elsewhere"}).identity() == make_card().identity()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "timm/y"),
        ("weights_sha256", "cd" * 32),
        ("pooling", "token"),
        ("network", {"timm_model": "x", "args": {}}),
        ("transform", {"input_px": 256, "mean": [0.5, 0.5, 0.5]}),
        ("runtime", "torch-cuda"),
        ("dim", 17),
        ("batch_size", 16),
        ("num_threads", 2),
    ],
)
def test_whatever_changes_the_numbers_changes_the_identity(field: str, value: object) -> None:
    assert make_card(**{field: value}).identity() != make_card().identity()


def test_identity_and_provenance_are_all_there_is() -> None:
    card = make_card()
    names = {field.name for field in dataclasses.fields(card)}
    assert set(card.identity()) | {"source", "revision", "licence"} == names


def test_a_card_survives_json_and_pickling() -> None:
    card = make_card()
    assert EncoderCard.from_json(card.to_json()) == card
    assert EncoderCard.from_dict(card.to_dict()) == card
    assert pickle.loads(pickle.dumps(card)) == card


def test_a_cards_dictionary_is_its_own_copy() -> None:
    card = make_card()
    card.to_dict()["network"]["args"]["pad_type"] = ""
    assert card.network["args"]["pad_type"] == "same"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "lacks the fields"),
        (make_card().to_json().replace('"dim"', '"dims"'), "unknown fields dims"),
        (make_card().to_json().replace('"dim": 16', '"dim": 0'), "not a positive integer"),
        (make_card().to_json().replace("float32", "float16"), "unknown precision"),
        (make_card().to_json().replace('"torch"', '"tvm"'), "unknown runtime"),
    ],
)
def test_a_broken_stored_card_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(EncoderError, match=complaint):
        EncoderCard.from_json(text)
