"""Keys of the store. A path carries the hash of what made it; nothing is named by time, host or attempt order.

feature_sets/<fp>.json                                  which tiling and encoder a fingerprint stands for
features/<fp, 16 digits>/<slide>/<sha256>.parquet       immutable, content-addressed
commits/<fp>/<slide>/<digest>.json                      put-if-absent; digest: source identity and mpp used
attempts/<fp>/<slide>/<digest>/<NNNN>.json              failures; digest: what was asked and how the source looked
manifests/<fp>/<version, 8 digits>.parquet              put-if-absent; training pins version and sha256
"""

import re
from typing import NamedTuple

from mhim_core.errors import ConfigError
from mhim_core.types import SlideId

_SLIDE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

FEATURE_SETS = "feature_sets"
FEATURES = "features"
COMMITS = "commits"
MANIFESTS = "manifests"


class CommitPlace(NamedTuple):
    """A commit key, taken apart."""

    slide_id: SlideId
    digest: str


def feature_set_key(fingerprint: str) -> str:
    return f"{FEATURE_SETS}/{_checked(fingerprint)}.json"


def features_prefix(fingerprint: str) -> str:
    return f"{FEATURES}/{_checked(fingerprint)[:16]}"


def features_key(fingerprint: str, slide_id: SlideId, sha256: str) -> str:
    return f"{features_prefix(fingerprint)}/{check_slide_id(slide_id)}/{_checked(sha256)}.parquet"


def commits_prefix(fingerprint: str) -> str:
    return f"{COMMITS}/{_checked(fingerprint)}"


def commit_key(fingerprint: str, slide_id: SlideId, digest: str) -> str:
    return f"{commits_prefix(fingerprint)}/{check_slide_id(slide_id)}/{_checked(digest)}.json"


def parse_commit_key(key: str) -> CommitPlace | None:
    """The slide and digest a commit key names; None for a key of another kind."""
    parts = key.removesuffix(".json").split("/")
    if len(parts) != 4 or parts[0] != "commits" or not key.endswith(".json"):
        return None
    return CommitPlace(SlideId(parts[2]), parts[3])


def slide_of(commit_key: str) -> SlideId:
    """The slide a commit key names; empty for a key of another kind."""
    place = parse_commit_key(commit_key)
    return SlideId("") if place is None else place.slide_id


def attempts_prefix(fingerprint: str) -> str:
    return f"attempts/{_checked(fingerprint)}"


def attempt_folder(fingerprint: str, slide_id: SlideId, digest: str) -> str:
    return f"{attempts_prefix(fingerprint)}/{check_slide_id(slide_id)}/{_checked(digest)}"


def attempt_key(fingerprint: str, slide_id: SlideId, digest: str, number: int) -> str:
    return f"{attempt_folder(fingerprint, slide_id, digest)}/{number:04d}.json"


def manifests_prefix(fingerprint: str) -> str:
    return f"{MANIFESTS}/{_checked(fingerprint)}"


def manifest_key(fingerprint: str, version: int) -> str:
    return f"{manifests_prefix(fingerprint)}/{version:08d}.parquet"


def check_slide_id(slide_id: SlideId) -> SlideId:
    """The id itself. Raises ConfigError if it could not be one folder's name everywhere."""
    if not _SLIDE_ID.fullmatch(slide_id):
        raise ConfigError(
            f"slide id {slide_id!r} is not 1 to 128 letters, digits, '.', '_' or '-' starting with a letter or digit"
        )
    return slide_id


def is_fingerprint(text: str) -> bool:
    return _FINGERPRINT.fullmatch(text) is not None


def _checked(digest: str) -> str:
    if not _FINGERPRINT.fullmatch(digest):
        raise ConfigError(f"{digest!r} is not a fingerprint of 64 hexadecimal digits")
    return digest
