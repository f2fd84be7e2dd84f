"""What others wrote is shown on a terminal and moves nothing there."""

import pytest

from mhim_core.printable import one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("real\rfake", r"real\rfake"),
        ("a\x08b\x7f\x00", r"a\x08b\x7f\x00"),
        ("abc\u202egnp.exe", r"abc\u202egnp.exe"),
        ("a\u2028b\u2066\u200f\u061c", r"a\u2028b\u2066\u200f\u061c"),
    ],
)
@pytest.mark.fault(49)
def test_control_characters_and_marks_of_direction_are_shown(text: str, shown: str) -> None:
    assert printable(text) == one_line(text) == shown


@pytest.mark.parametrize("text", ["plain", "Größe 5 µm → ♥ 漢字", "عربى", "", "C:\\x1b", "👩‍🔬", "e\u0301"])
def test_text_of_any_script_stays(text: str) -> None:
    assert printable(text) == one_line(text) == text


def test_line_feeds_and_tabs_are_the_writer_s_own_unless_the_text_is_quoted_in_a_line() -> None:
    assert printable("a\n\tb") == "a\n\tb"
    assert one_line("a\n\tb") == r"a\n\tb"
    assert one_line(ValueError("x\nmhim: all is well")) == r"x\nmhim: all is well"
