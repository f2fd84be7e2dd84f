"""JSON that others could have written is taken in one place, which knows what Python's parser lets through."""

import pytest

from mhim_core.errors import IntegrityError
from mhim_core.records import parse_json, parse_object


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 65 + "1" + "}" * 65, "[" * 66 + "]" * 66),
        *("NaN", "[-Infinity]", '{"a": 1e999}', "9" * 5000),
        *('"\\ud800"', '{"\\udfff": 1}', '["\\ud83d"]'),
        *("", "{", "\x00", "{} {}"),
    ],
    ids=lambda text: text[:12],
)
def test_what_would_harm_later_is_refused_now(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse_json(text)
    assert type(error.value) is not RecursionError
    with pytest.raises(IntegrityError, match="here"):
        parse_object(text, "here")


def test_everything_else_is_json_as_ever() -> None:
    assert parse_json(b'{"a": [1, 2.5, null, true, "\\ud83d\\ude00\xc3\xa9"]}') == {"a": [1, 2.5, None, True, "😀é"]}
    assert parse_json("[" * 64 + "]" * 64) is not None
    assert parse_json("[NaN, Infinity]", allow_nan=True)[1] == float("inf")
    assert parse_object("{}", "here") == {}
    with pytest.raises(IntegrityError, match="here"):
        parse_object("[]", "here")
