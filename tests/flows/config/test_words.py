"""`key=value` words: names and paths are taken as they were typed, numbers are numbers, the rest is one sentence."""

from dataclasses import dataclass
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.config.commands import CheckConfig, EmbedConfig, EvaluateConfig, TrainConfig
from flows.config.flat import keys_of
from flows.config.keys import Method
from flows.config.words import parse
from mhim_core.errors import ConfigError

NEEDED = ["cohort=c.csv", "store=s", "out=o"]

MANGLED_BY_HYDRA = [
    *("2026_11", "12_3", "1e3", "007", "0x10", "nan", "inf", "true", "null", "none", "~/x", "~", "hôpital.csv"),
    *("a (1).csv", "/run=3/", "x#2", "a,b.csv", "${x}", "${oc.env:HOME}", "$HOME", "'quoted'", '"', "it's", "=x", "="),
    *(
        "  spaces  ",
        " ",
        "[a,b]",
        "{a:b}",
        "a:b",
        "a\\b",
        "C:\\slides",
        "*",
        "?",
        "!",
        "%20",
        "@x",
        "+x",
        "--debug=",
        "😀",
    ),
    *("s3://bucket/run=3/a b", "\u202egpj.svs", "_target_: os.system"),
]


class Colour(StrEnum):
    red = "red"
    light_blue = "light_blue"


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A config with a key of every kind."""

    name: str
    """Who."""
    paths: tuple[str, ...] = ()
    """Where,
    over two lines."""
    maybe: str | None = "x"
    colour: Colour = Colour.red
    shade: Colour | None = None
    """How."""
    number: int = 3
    """How many."""
    maybe_number: int | None = None
    """How many, if any."""
    share: float = 0.5
    """How much."""
    flag: bool = False
    """Whether."""


def toy(*words: str) -> Toy:
    return parse(Toy, ["name=n", *words], command="check")


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        toy(*words)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("index", range(0, len(MANGLED_BY_HYDRA), 3))
def test_names_and_paths_reach_the_config_as_they_were_typed(index: int) -> None:
    cohort, store, out = (MANGLED_BY_HYDRA * 2)[index : index + 3]
    config = parse(TrainConfig, [f"cohort={cohort}", f"store={store}", f"out={out}"], command="train")
    assert (config.data.cohort, config.store, config.out) == (cohort, store, out)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1))
def test_any_text_without_control_characters_is_taken_raw(value: str) -> None:
    assert parse(EvaluateConfig, [f"run={value}"], command="evaluate").run == value


@pytest.mark.parametrize("value", ["a\0b", "a\nb", "a\rb", "\x1b[31m", "\x7f", "\udcff.csv"])
def test_control_characters_and_broken_utf8_are_refused_in_print(value: str) -> None:
    message = refusal(f"maybe={value}")
    assert "maybe=" in message
    assert message.isprintable()


def test_lists_of_paths_are_split_at_commas_and_else_raw() -> None:
    assert toy("paths=a (1).csv,2026_11,${x}, b ").paths == ("a (1).csv", "2026_11", "${x}", " b ")
    assert toy("paths=one").paths == ("one",)
    assert toy("paths=").paths == ()
    assert toy().paths == ()


def test_an_optional_key_is_unset_by_none_null_or_nothing() -> None:
    for value in ("none", "null", "None", ""):
        config = toy(f"maybe={value}", f"shade={value}", f"maybe_number={value}")
        assert (config.maybe, config.shade, config.maybe_number) == (None, None, None)
    assert toy("maybe=nobody").maybe == "nobody"
    assert parse(TrainConfig, [*NEEDED, "encoder=none"], command="train").features.encoder is None


def test_enums_are_typed_by_name() -> None:
    assert (toy("colour=light_blue").colour, toy("shade=red").shade) == (Colour.light_blue, Colour.red)
    assert parse(TrainConfig, [*NEEDED, "method=plain"], command="train").method is Method.plain
    for value in ("blue", "RED", "", "red ", "Colour.red"):
        assert refusal(f"colour={value}") == f"colour={value!r} is not one of red, light_blue"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("number=7", 7),
        ("number=-7", -7),
        ("number=+7", 7),
        ("number= 7 ", 7),
        ("maybe_number=0", 0),
        ("share=1e-3", 1e-3),
        ("share=+2", 2.0),
        ("share=.5", 0.5),
        ("share=5.", 5.0),
        ("share=-0.0", 0.0),
        ("flag=true", True),
        ("flag=False", False),
    ],
)
def test_numbers_and_booleans_are_read(word: str, expected: float) -> None:
    value = getattr(toy(word), word.partition("=")[0])
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "value", ["", "x", "1.5", "1e3", "1_000", "0x10", "007", "true", "1,2", "[1]", "${share}", "٣"]
)
def test_what_is_no_whole_number_is_refused(value: str) -> None:
    assert refusal(f"number={value}") == f"number={value!r} is not a whole number"


@pytest.mark.parametrize("value", ["", "x", "1_0", "nan", "inf", "-inf", "1e400", "none", "50%", "1 2", "${number}"])
def test_what_is_no_finite_number_is_refused(value: str) -> None:
    assert refusal(f"share={value}") == f"share={value!r} is not a number"


def test_a_decimal_comma_is_refused_with_the_point_to_write() -> None:
    assert refusal("share=0,5") == "share='0,5' is not a number; write 0.5"


@pytest.mark.parametrize("value", ["", "yes", "1", "0", "on", "none", "tru"])
def test_what_is_neither_true_nor_false_is_refused(value: str) -> None:
    assert refusal(f"flag={value}") == f"flag={value!r} is not true or false"


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("numbr=3", "number"),
        ("--number=3", "number"),
        ("--number", "number"),
        ("maybe-number=3", "maybe_number"),
        ("SHARE=3", "share"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(word: str, suggestion: str) -> None:
    message = refusal(word)
    assert f"did you mean {suggestion}=…?" in message
    assert "mhim check --help" in message


@pytest.mark.parametrize(
    "word",
    [
        "zzz=1",
        "++number=3",
        "~number",
        "_target_=os.system",
        "hydra.run.dir=x",
        "schema/check=x",
        "number.x=1",
        "=x",
        "",
    ],
)
@pytest.mark.fault(38)
def test_nothing_of_hydra_s_own_grammar_gets_through(word: str) -> None:
    assert "has no key" in refusal(word)


def test_a_key_without_a_value_a_key_twice_and_a_missing_key_are_refused() -> None:
    assert "key 'number' has no value; write number=…" in refusal("number")
    assert "given twice" in refusal("number=1", "number=1")
    assert "given twice" in refusal("name=m")
    with pytest.raises(ConfigError, match=r"^check needs name=…"):
        parse(Toy, [], command="check")
    with pytest.raises(ConfigError, match="name= needs a value"):
        parse(Toy, ["name="], command="check")
    with pytest.raises(ConfigError, match=r"^embed needs cohort=… store=…"):
        parse(EmbedConfig, [], command="embed")


def test_one_command_s_schema_leaves_no_trace_in_the_next() -> None:
    assert toy("number=9").number == 9
    assert parse(CheckConfig, ["cohort=c", "tile_px=128"], command="check").tiles.tile_px == 128
    assert toy().number == 3


def test_keys_carry_their_kind_and_the_text_under_the_field() -> None:
    keys = keys_of(Toy)
    assert list(keys) == list(Toy.__dataclass_fields__)
    assert keys["paths"].doc == "Where, over two lines."
    assert keys["maybe"].doc == ""
    assert keys["name"].required
    assert not keys["paths"].required
    assert (keys["shade"].kind, keys["shade"].optional) == (Colour, True)
    assert (keys["number"].kind, keys["number"].optional) == (int, False)
