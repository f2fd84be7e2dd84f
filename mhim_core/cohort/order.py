"""The natural order of ids and labels."""

import re


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key under which `slide2` comes before `slide10`; total, so that equal keys mean equal texts."""
    parts = re.split(r"([0-9]+)", text)
    return [(1, int(part), "") if index % 2 else (0, 0, part) for index, part in enumerate(parts)], text
