"""Reading one cell: text → value, or an error that says why it cannot be read. Nothing is guessed."""

import math
import re

from mhim_core.cohort.findings import quote

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan", re.IGNORECASE | re.ASCII)  # float() takes 1_0 and ٣
NO_LABEL = (
    *("NA", "N/A", "n.a.", "NaN", "<NA>", "#N/A", "NULL", "None", "nil", "Unknown", "unk", "missing", "?", "-", "--"),
    *("'--", "---", ".", "not reported", "not available", "not evaluated", "not applicable", "not assessed"),
    *("not determined", "not done", "not known", "not performed", "not tested", "not provided", "not specified"),
    *("not recorded", "no data", "nd", "n.d.", "not allowed to collect"),
)
"""How tables (GDC, cBioPortal, spreadsheets, R, pandas) write a missing value."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FOLD = re.compile(r"(\d{1,6})(?:\.0+)?", re.ASCII)  # a data frame turns integers with gaps into floats
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {alias: split for split, aliases in _SPLITS.items() for alias in aliases}
_EVENTS = {
    True: ("dead", "deceased", "event", "1:deceased", "1:dead"),
    False: ("alive", "living", "censored", "0:living", "0:alive"),
}
"""Words with the same meaning in any column."""
_ANSWERS = {True: ("1", "1.0", "true", "yes", "y", "t"), False: ("0", "0.0", "false", "no", "n", "f")}
"""Answers to the question in the column's name: was there an event, or was the patient censored?"""
_EVENT_OF = {word: event for event, words in _EVENTS.items() for word in words}
_ANSWER_OF = {word: answer for answer, words in _ANSWERS.items() for word in words}


class CellError(ValueError):
    """The cell cannot be read; the message says why."""


def number_of(text: str) -> float | None:
    """The finite number that the text represents; None: it is not a number."""
    text = text.strip()
    if not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        return None
    return float(text)


def word_key(text: str) -> str:
    """Equal for all spellings of a word: `[Not  Available]` → `not available`."""
    return " ".join(text.strip().strip("[]").replace("_", " ").casefold().split())


_NO_VALUE = frozenset(map(word_key, NO_LABEL))


def has_no_value(text: str) -> bool:
    """True for an empty cell and for `NA` and its like, in any case."""
    return not text.strip() or word_key(text) in _NO_VALUE


def is_decimal_comma(text: str) -> bool:
    """True for `0,31`, which is a number where commas are decimal points."""
    return number_of(text) is None and text.count(",") == 1 and number_of(text.replace(",", ".")) is not None


def read_time(text: str) -> float | None:
    """A time in the table's unit, 0 or more; None where the cell has no value."""
    if has_no_value(text):
        return None
    value = number_of(text)
    if value is None:
        hint = f"; write {text.strip().replace(',', '.')}" if is_decimal_comma(text) else ""
        raise CellError(f"{quote(text)} is not a time (a finite number){hint}")
    if value < 0:
        raise CellError(f"{text.strip()} is before the start: times are 0 or more")
    return value


def read_event(text: str, *, censorship: bool = False) -> bool | None:
    """Was the event observed? None where the cell has no value.

    `censorship`: the column asks for the opposite, so that 1, true and yes mean censored; `dead`, `alive`, `censored`
    and their like have their own meaning in either column.
    """
    if has_no_value(text):
        return None
    word = text.strip().casefold()
    if word in _EVENT_OF:
        return _EVENT_OF[word]
    if word in _ANSWER_OF:
        return _ANSWER_OF[word] != censorship
    expected = "1 (censored) or 0 (event)" if censorship else "1 (event) or 0 (censored)"
    raise CellError(
        f"{quote(text)} does not say whether there was an event; expected {expected}, yes or no, dead or alive"
    )


def read_site(text: str) -> str | None:
    """The site's name without the spaces around it; None where the cell has no value."""
    return None if has_no_value(text) else text.strip()


def read_split(text: str) -> str | None:
    """train, val or test; None for an empty cell."""
    split = _SPLIT_OF.get(text.strip().casefold())
    if split is None and text:
        raise CellError(f"{quote(text)} is not one of train, val, test")
    return split


def read_fold(text: str) -> int | None:
    """The number of a fold, 0 or more; None for an empty cell."""
    if not text.strip():
        return None
    match = _FOLD.fullmatch(text.strip())
    if match is None:
        raise CellError(f"{quote(text)} is not the number of a fold (0, 1, 2, …)")
    return int(match[1])


def read_sha256(text: str) -> str | None:
    """64 hexadecimal digits in lower case; None for an empty cell."""
    digest = text.strip().lower()
    if digest and not _SHA256.fullmatch(digest):
        raise CellError(f"{quote(text)} is not a sha256 (64 hexadecimal digits)")
    return digest or None
