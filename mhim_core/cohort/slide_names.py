"""Slide ids from file names: safe as keys of a store, unique, and to be read back.

A character that an id cannot hold is written `_x<its code point, hexadecimal>_`: `S12 A1` → `S12_x20_A1`,
`Größe` → `Gr_xf6__xdf_e`. An id begins with a letter or digit; a name that does not is put behind `x_x00_`, which no
file name can hold. Names are taken in Unicode's composed form (NFC), in which one name has one spelling everywhere.
"""

import re
import unicodedata

from mhim_core.cohort.columns import strip_extension

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]|_(?=x[0-9a-f]{2,6}(?:_|[^A-Za-z0-9._-]))")
"""What looks like an escape is escaped itself, so that two names never have one id."""
_ESCAPE = re.compile(r"_x([0-9a-f]{2,6})_")
_PREFIX = "x_x00_"


def slide_id_of(path: str) -> str:
    """The id of a slide file: its name without folder and slide extension, safe. "" for a path without a name."""
    return safe_id(strip_extension(re.split(r"[/\\]", path)[-1]))


def safe_id(name: str) -> str:
    """The name as an id; one that is an id already, and holds no escape, stays as it is."""
    escaped = _UNSAFE.sub(lambda match: f"_x{ord(match[0]):02x}_", unicodedata.normalize("NFC", name))
    return escaped if not escaped or (escaped[0].isascii() and escaped[0].isalnum()) else _PREFIX + escaped


def name_of(slide_id: str) -> str:
    """The file name, without extension, that `safe_id` made this id of."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), slide_id.removeprefix(_PREFIX))
