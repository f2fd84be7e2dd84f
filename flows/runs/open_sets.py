"""The feature sets that one embedding fills, an encoder and a tiling each, and which slides each of them lacks."""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flows.config.commands import EmbedConfig, PredictConfig
from flows.runs.cohort import CohortInput, slide_identity
from flows.runs.tiling import feature_set_of, settled_spec
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.registry import Weights
from mhim_core.errors import ConfigError
from mhim_core.outcome import parts_of
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.ledger import Ledger, Pending
from mhim_core.store.record import skipped_row
from mhim_core.types import SlideTask, StatusRow


class CohortEncoder(NamedTuple):
    """An encoder for a cohort's slides."""

    card: EncoderCard
    weights: Weights | None
    """Where its weights file lies; None: its card tells."""
    config: EmbedConfig | PredictConfig
    """The command's config, of this encoder alone."""


class OpenSet(NamedTuple):
    """A feature set, and what of a cohort it has and lacks."""

    encoder: CohortEncoder
    spec: TileSpec
    """Its tissue finder is settled."""
    ledger: Ledger
    pending: Pending
    refused: tuple[StatusRow, ...] = ()
    """Of slides that lack an annotation or mask that is needed, or whose is unreadable."""

    @property
    def feature_set(self) -> FeatureSet:
        return self.ledger.feature_set

    @property
    def known_rows(self) -> list[StatusRow]:
        """Of the slides that are not to be worked on."""
        return [*map(skipped_row, self.pending.done.values()), *self.pending.given_up, *self.refused]


def open_sets(
    cohort_input: CohortInput, encoders: Sequence[CohortEncoder], spec: TileSpec, storage: Storage
) -> list[OpenSet]:
    """A set for each encoder, in their order. Raises ConfigError where two encoders are one under two names."""
    identity = functools.cache(slide_identity)  # each slide's bytes are looked at once
    sets = []
    for encoder in encoders:
        own_spec, config = settled_spec(spec, encoder.card, storage), encoder.config
        ledger = Ledger(storage, feature_set_of(own_spec, encoder.card))
        pending = ledger.pending(
            cohort_input.open_tasks(),
            hints=lambda task: cohort_input.hints.get(task.slide_id),
            policy=config.policy,
            identity=identity,
            retry_failed=config.failures.retry_failed,
            decode_timeout_s=config.decode.decode_timeout_s,
        )
        sets.append(OpenSet(encoder, own_spec, ledger, pending, cohort_input.refused))
    if len({open_set.feature_set.fingerprint for open_set in sets}) < len(sets):
        names = ", ".join(encoder.card.id for encoder in encoders)
        raise ConfigError(f"of the encoders {names}, two make the same features; name each once")
    return sets


def by_tiling(sets: Sequence[OpenSet]) -> list[list[OpenSet]]:
    """The sets in groups of one tiling, whose slides are decoded once for the whole group."""
    groups: dict[TileSpec, list[OpenSet]] = {}
    for open_set in sets:
        groups.setdefault(open_set.spec, []).append(open_set)
    return list(groups.values())


class Decoding(NamedTuple):
    """Slides that are decoded once for several sets of one tiling."""

    sets: tuple[OpenSet, ...]
    """Those that lack something."""
    tasks: tuple[SlideTask, ...]
    """Every slide that one of them lacks, with the places of those that do."""

    def rows_of(self, rows: Iterable[StatusRow]) -> dict[str, list[StatusRow]]:
        """Each set's rows, by its fingerprint."""
        own: dict[str, list[StatusRow]] = {open_set.feature_set.fingerprint: [] for open_set in self.sets}
        tasks = {task.slide_id: task for task in self.tasks}
        for row in rows:
            for place, part in parts_of(row, tasks[row.slide_id], len(self.sets)).items():
                own[self.sets[place].feature_set.fingerprint].append(part)
        return own


def decoding_for(group: Sequence[OpenSet], tasks: Sequence[SlideTask]) -> Decoding:
    """What is left to do for a group of one tiling. `tasks`: those of the cohort that can be embedded."""
    lacking = tuple(open_set for open_set in group if open_set.pending.todo)
    todo = [{task.slide_id for task in open_set.pending.todo} for open_set in lacking]
    chosen = []
    for task in tasks:
        places = tuple(place for place, slide_ids in enumerate(todo) if task.slide_id in slide_ids)
        if places:
            chosen.append(task._replace(encoders=() if len(places) == len(lacking) else places))
    return Decoding(lacking, tuple(chosen))
