"""The natural order of ids and labels."""

import re


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key under which `slide2` comes before `slide10`; total, so that equal keys mean equal texts."""
    parts = re.split(r"([0-9]+)", text)
    return [_number_key(part) if index % 2 else (0, 0, part) for index, part in enumerate(parts)], text


def _number_key(digits: str) -> tuple[int, int, str]:
    """Of any length: Python turns no more than 4,300 digits into an int."""
    significant = digits.lstrip("0")
    return 1, len(significant), significant
