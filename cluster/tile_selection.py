"""Which tiles of a slide an encoder sees, chosen where the slide is decoded, by features of it that a store holds.

The features are read there, so that neither the driver nor a task holds them; torch is loaded only where models score.
"""

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from cluster.storage import open_storage, read_bytes
from mhim_core.errors import IntegrityError, SlideError
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import fingerprint, sha256
from mhim_core.slides.places import ChosenTiles
from mhim_core.types import FailureReason, SlideTask

if TYPE_CHECKING:  # torch: a decoder needs it only where models score
    from mhim_core.train.inference import Voter


class ScoringModel(NamedTuple):
    """A model whose attention scores tiles."""

    uri: str
    sha256: str


class TileSelection(NamedTuple):
    """How tiles are chosen, the same for all slides; plain and picklable."""

    store_uri: str
    """Which holds the features by which they are."""
    dim: int
    """Of these features."""
    share: float
    """Of a slide's tiles that is chosen."""
    models: tuple[ScoringModel, ...] = ()
    """Those that score tiles; empty: the chosen are spread over what the slide shows."""


def chosen_digest(task: SlideTask) -> str:
    """Of what decides the choice for this slide, known before any of it is read; empty: nothing does."""
    if not task.chosen_by:
        return ""
    return fingerprint({"features": task.chosen_by.rpartition("/")[2], "voters": list(task.voters)})


def chosen_tiles(task: SlideTask, selection: TileSelection) -> ChosenTiles:
    """Read the features and choose. Raises NotFoundError, StorageError; SlideError(bad_annotation) for damage."""
    from mhim_core.store.schema import decode_features
    from mhim_core.store.selection import highest_rows, num_chosen, spread_rows

    data = open_storage(selection.store_uri).get(task.chosen_by)
    digest = task.chosen_by.rpartition("/")[2].removesuffix(".parquet")
    try:
        table = decode_features(data, slide_id=task.slide_id, dim=selection.dim, expect_sha256=digest)
        num = num_chosen(len(table.features), selection.share)
        if selection.models:
            from mhim_core.train.inference import predict_tables

            voters = [_voter(selection.models[place]) for place in task.voters or range(len(selection.models))]
            (scores,) = predict_tables([table], voters).attention
            rows = highest_rows(scores, num)
        else:
            rows = spread_rows(table.features, num)
    except IntegrityError as error:
        raise SlideError(FailureReason.BAD_ANNOTATION, f"what its tiles are chosen by is damaged: {error}") from error
    source, (x, y) = table.metadata["source"], table.metadata["mpp"]
    return ChosenTiles(table.coords_l0_px[rows], SourceIdentity(source["num_bytes"], source["digest"]), (x, y))


@cache
def _voter(model: ScoringModel) -> "Voter":
    """Loaded once a process. Raises IntegrityError for another file than the run named."""
    from mhim_core.train.inference import Voter
    from mhim_core.train.model_file import load_model

    data = read_bytes(model.uri)
    if sha256(data) != model.sha256:
        raise IntegrityError(f"{model.uri} is another file than its run has made")
    loaded = load_model(data)
    return Voter(loaded.student, loaded.card.append_recycled, loaded.card.task)
