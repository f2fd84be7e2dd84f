"""The shared vocabulary: identifiers, statuses, exit codes.

Coordinates, stated once: a tile's place is the (x, y) of its top-left corner in **level-0 pixels** of the slide,
x to the right, y downwards. Resolutions are microns per pixel (mpp); a smaller mpp is a finer image.
A *bag* is one slide's (or patient's) set of *instances* (tile features); an *encoder* maps tiles to features, an
*aggregator* maps a bag to a prediction.
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple, NewType

from mhim_core.fingerprint import neutral_fields

SlideId = NewType("SlideId", str)
PatientId = NewType("PatientId", str)
BagId = NewType("BagId", str)


IMPORTED = "imported"
"""What marks features that another tool made: the runtime of their encoder's card, a part of their tiling's identity,
and who stated their resolution."""


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    BUG = 1
    """Unexpected: the traceback is in the log, the terminal gets one sentence."""
    BAD_INPUT = 2
    """Bad configuration or input, found before any work."""
    PARTIAL = 3
    """Finished; some slides failed, within `max_failed_fraction`."""
    TOO_MANY_FAILED = 4
    """Finished; more slides failed than `max_failed_fraction` allows. What was embedded is kept."""
    CONFLICT = 5
    """Another run or store stands in the way."""
    STORAGE = 6
    """Storage unreachable or denied; or the cluster of a job unreachable; or the machine gave out (disk, memory)."""
    DRIFT = 7
    """Drift over a set limit."""
    INTERRUPTED = 130
    """Ctrl-C; run again to go on."""
    TERMINATED = 143
    """SIGTERM; run again to go on."""


class Status(StrEnum):
    """What became of one slide in one run."""

    OK = "ok"
    EMPTY = "empty"
    """No tissue: no tiles, no failure; training excludes and counts it."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Committed by an earlier run; not counted in ok."""


class FailureReason(StrEnum):
    """Why a slide failed: a closed list."""

    OPEN = "open"
    READ = "read"
    NOT_FOUND = "not_found"
    NO_MPP = "no_mpp"
    IMPLAUSIBLE_MPP = "implausible_mpp"
    UPSAMPLE = "upsample"
    TOO_LARGE = "too_large"
    DECODER_CRASH = "decoder_crash"
    TIMEOUT = "timeout"
    NO_SPACE = "no_space"
    SOURCE_HASH_MISMATCH = "source_hash_mismatch"
    NO_ANNOTATION = "no_annotation"
    """No annotation, mask, coordinates or features to choose by where the tiling asks for them."""
    BAD_ANNOTATION = "bad_annotation"
    """Any of these that cannot be read, or is not this slide's."""
    BAD_FEATURES = "bad_features"
    STORAGE = "storage"


class SlideTask(NamedTuple):
    """One slide to embed: small and picklable, the only thing that travels through Ray Data."""

    slide_id: SlideId
    uri: str
    """An absolute path or an `s3://` URI."""
    mpp_override: float | None = None
    """µm/px of level 0 as the cohort table states it; wins over the slide's own."""
    sha256: str | None = None
    """The file's expected sha256, where the cohort table gives one."""
    encoders: tuple[int, ...] = ()
    """Which of the command's encoders the slide is for, by their place; (): all of them."""
    annotation: str = ""
    """Where its annotation lies, a path or an `s3://` URI; empty: it has none, or none is used."""
    mask: str = ""
    """Where its tissue mask lies, in the same way."""
    regions: str = ""
    """The digest of these, and of what follows, as they were when the run began; empty: none are used."""
    places: str = ""
    """Where the file with the places of its tiles lies, a path or an `s3://` URI; empty: they are a grid's."""
    chosen_by: str = ""
    """The key in the store of the features by which tiles are chosen; empty: all are taken, or there are none."""
    voters: tuple[int, ...] = ()
    """Which of the command's scoring models choose, by their place; (): all of them, or none."""


@neutral_fields(is_empty=False, parts=(), waited_s=0.0, encoded_s=0.0, stored_s=0.0)
class StatusRow(NamedTuple):
    """What became of one slide: about 1 KB, one per slide and run."""

    slide_id: SlideId
    status: Status
    reason: FailureReason | None = None
    stage: str = ""
    """open | plan | tiles | encode | commit: where it failed."""
    error_type: str = ""
    message: str = ""
    """Of a failure: why. Of an empty slide: what was seen. Of another: what to look at, empty for nothing."""
    attempts: int = 1
    num_tiles: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    retries: int = 0
    """Requests to the storage that had to be repeated for it."""
    node_id: str = ""
    """The Ray node that did the work."""
    commit_key: str = ""
    is_empty: bool = False
    """No tissue, as this run saw or, of a skipped slide, an earlier one."""
    parts: tuple["StatusRow", ...] = ()
    """What became of it by encoder, in the order of the task's, where several encoded it in one pass and it did not
    fail as a whole; (): the row holds for each."""
    waited_s: float = 0.0
    """Of `seconds`, those in which the encoder had no tile to encode."""
    encoded_s: float = 0.0
    stored_s: float = 0.0
    """Asking the store for the slide, and committing it."""
