"""Keys of the store. A path carries the hash of what made it; nothing is named by time, host or attempt order.

feature_sets/<fp>.json                                  which tiling and encoder a fingerprint stands for
features/<fp, 16 digits>/<slide>/<sha256>.parquet       immutable, content-addressed
commits/<fp>/<slide>/<digest>.json                      put-if-absent; digest: source identity and mpp used
attempts/<fp>/<slide>/<digest>/<NNNN>.json              failures; digest: what was asked and how the source looked
manifests/<fp>/<version, 8 digits>.parquet              put-if-absent; training pins version and sha256
removals/<fp>/<sha256 of the slide's id>.json           the slide was taken out on purpose; it names no slide
"""

import re
from typing import NamedTuple

from mhim_core.errors import ConfigError
from mhim_core.fingerprint import sha256 as _sha256
from mhim_core.types import SlideId

_SLIDE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_FEATURES_KEY = re.compile(rf"features/([0-9a-f]{{16}})/({_SLIDE_ID.pattern})/[0-9a-f]{{64}}\.parquet")

FEATURE_SETS = "feature_sets"
FEATURES = "features"
COMMITS = "commits"
MANIFESTS = "manifests"
ATTEMPTS = "attempts"
REMOVALS = "removals"
PROBES = "probe"
REPORTS = "reports"


class FeaturesPlace(NamedTuple):
    """The key of a feature file, taken apart."""

    feature_set: str
    """The first 16 digits of its fingerprint."""
    slide_id: SlideId


class CommitPlace(NamedTuple):
    """A commit key, taken apart."""

    slide_id: SlideId
    digest: str


def feature_set_key(fingerprint: str) -> str:
    return f"{FEATURE_SETS}/{_checked(fingerprint)}.json"


def features_prefix(fingerprint: str) -> str:
    return f"{FEATURES}/{_checked(fingerprint)[:16]}"


def features_key(fingerprint: str, slide_id: SlideId, sha256: str) -> str:
    return f"{slide_features_prefix(_checked(fingerprint), slide_id)}/{_checked(sha256)}.parquet"


def slide_features_prefix(feature_set: str, slide_id: SlideId) -> str:
    """The folder of a slide's feature files. `feature_set`: at least the first 16 digits of its fingerprint."""
    return f"{FEATURES}/{feature_set[:16]}/{check_slide_id(slide_id)}"


def parse_features_key(key: str) -> FeaturesPlace | None:
    """What the key of a feature file names; None for a key of another kind."""
    match = _FEATURES_KEY.fullmatch(key)
    return None if match is None else FeaturesPlace(match[1], SlideId(match[2]))


def commits_prefix(fingerprint: str) -> str:
    return f"{COMMITS}/{_checked(fingerprint)}"


def slide_commits_prefix(fingerprint: str, slide_id: SlideId) -> str:
    return f"{commits_prefix(fingerprint)}/{check_slide_id(slide_id)}"


def commit_key(fingerprint: str, slide_id: SlideId, digest: str) -> str:
    return f"{slide_commits_prefix(fingerprint, slide_id)}/{_checked(digest)}.json"


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
    return f"{ATTEMPTS}/{_checked(fingerprint)}"


def attempt_folder(fingerprint: str, slide_id: SlideId, digest: str) -> str:
    return f"{attempts_prefix(fingerprint)}/{check_slide_id(slide_id)}/{_checked(digest)}"


def attempt_key(fingerprint: str, slide_id: SlideId, digest: str, number: int) -> str:
    return f"{attempt_folder(fingerprint, slide_id, digest)}/{number:04d}.json"


def manifests_prefix(fingerprint: str) -> str:
    return f"{MANIFESTS}/{_checked(fingerprint)}"


def manifest_key(fingerprint: str, version: int) -> str:
    return f"{manifests_prefix(fingerprint)}/{version:08d}.parquet"


def manifest_version(key: str) -> int | None:
    """The version that a manifest's key names; None for a key of another kind."""
    name = key.rpartition("/")[2]
    return int(name[:8]) if name.endswith(".parquet") and name[:-8].isdigit() else None


def removals_prefix(fingerprint: str) -> str:
    return f"{REMOVALS}/{_checked(fingerprint)}"


def removal_key(fingerprint: str, slide_id: SlideId) -> str:
    return f"{removals_prefix(fingerprint)}/{_sha256(check_slide_id(slide_id).encode())}.json"


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
