"""The embedder's heart: batches of tiles in, one slide's features per encoder out. A plain callable, weights held once.

Whoever decodes (the same process, a child, another machine) hands over `PlanFacts` and an iterator of batches; this
module opens no slide. Shapes: N planned tiles, b tiles of a batch, D features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from mhim_core.embed.card import RUNTIME_OPENVINO, EncoderCard
from mhim_core.embed.encoder import Features, OverlappingEncoder, TileEncoder
from mhim_core.embed.facts import PlanFacts
from mhim_core.embed.transform import shared_resizes
from mhim_core.errors import EncoderError, MhimError, SlideError
from mhim_core.features import SlideFeatures, SlideReading
from mhim_core.types import FailureReason

_PACKAGES = ("mhim", "torch", "numpy", "openslide-python", "openslide-bin")


@runtime_checkable
class Tiles(Protocol):
    """Decoded tiles: what `mhim_core.slides.reader.TileBatch` is."""

    @property
    def index(self) -> np.ndarray:
        """int64 (b,): rows of the plan."""
        ...

    @property
    def tiles(self) -> np.ndarray:
        """uint8 (b, tile_px, tile_px, 3)."""
        ...

    @property
    def background_share(self) -> np.ndarray:
        """float32 (b,)."""
        ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """What else was asked for, by name, (b,)."""
        ...

    @property
    def left_out(self) -> Sequence[int]:
        """Rows of the plan that were read and are left out for their quality."""
        ...


Encoded = SlideFeatures | BaseException
"""One slide's features by one encoder, or what kept that encoder alone from making them."""


class SlideEncoder:
    """Encodes slide after slide with the same encoders.

    Tiles are regrouped into each encoder's own batches, so how they arrive changes nothing, nor which other encoders
    see them.
    """

    def __init__(self, encoders: Sequence[TileEncoder]) -> None:
        if not encoders:
            raise EncoderError("no encoder given; set encoder=, for instance encoder=hed-texture")
        self.encoders = tuple(encoders)

    def only(self, places: Sequence[int]) -> "SlideEncoder":
        """With the encoders at these places alone."""
        return SlideEncoder([self.encoders[place] for place in places])

    def __call__(self, batches: Iterable[Tiles], facts: PlanFacts) -> list[SlideFeatures]:
        """As `each`; raises what kept the first of the encoders that failed from making its features."""
        encoded = self.each(batches, facts)
        for result in encoded:
            if isinstance(result, BaseException):
                raise result
        return [result for result in encoded if isinstance(result, SlideFeatures)]

    def each(self, batches: Iterable[Tiles], facts: PlanFacts) -> list[Encoded]:
        """One result per encoder, in their order: SlideFeatures of the tiles that came, in plan order, float16.

        Planned tiles that never came are counted in `num_bad_tiles`. An encoder whose features cannot be stored has
        SlideError(BAD_FEATURES) for its result: one is NaN or infinite, also where it leaves float16's range. One that
        raises anything has that, and the others go on; once all have failed, no more tiles are asked for. Raises
        SlideError(READ) if tiles were planned and none came, ValueError if a batch does not belong to the plan, and
        EncoderError where an encoder is not what its card says. What `batches` raises passes through.
        """
        collectors = [_Collector(encoder, facts) for encoder in self.encoders]
        lanes = _lanes(collectors)
        came_N = np.zeros(len(facts.coords_l0_px), dtype=bool)
        background_N = np.zeros(len(came_N), dtype=np.float32)
        columns = {name: np.array(values) for name, values in facts.columns.items()}
        num_left_out = 0
        with shared_resizes() if len(collectors) > 1 else nullcontext():
            for batch in batches:
                _check_batch(batch, came_N)
                came_N[batch.index] = True
                background_N[batch.index] = batch.background_share
                num_left_out += len(batch.left_out)
                for name, values in batch.columns.items():
                    columns.setdefault(name, np.zeros(len(came_N), values.dtype))[batch.index] = values
                for lane in lanes:
                    lane.add(batch.index, batch.tiles)
                del batch  # whose memory may be the decoder's next
                if all(collector.failure is not None for collector in collectors):
                    break
            for lane in lanes:
                lane.finish()
        if len(came_N) > num_left_out and not came_N.any():
            message = f"slide {facts.slide_id}: none of its {len(came_N)} planned tiles was read"
            raise SlideError(FailureReason.READ, message)
        beside = _Beside(came_N, background_N, columns, num_left_out)
        return [collector.finish(beside) for collector in collectors]


class _Beside(NamedTuple):
    """What is known of the planned tiles beside their features."""

    came_N: np.ndarray
    background_N: np.ndarray
    columns: Mapping[str, np.ndarray]
    num_left_out: int
    """Tiles that were read and left out for their quality."""

    def reading(self, facts: PlanFacts) -> SlideReading:
        """The slide's, with the share of tiles that were left out."""
        view = facts.reading.view
        if not self.num_left_out or view is None:
            return facts.reading
        num_left_out, num_planned = facts.num_left_out + self.num_left_out, facts.num_left_out + len(self.came_N)
        return replace(facts.reading, view=view.leaving_out(num_left_out, num_planned))


class _Lane:
    """The encoders of one batch size: tiles are regrouped into batches once, and each batch goes to all of them."""

    def __init__(self, collectors: Sequence["_Collector"], batch_size: int) -> None:
        self._collectors = collectors
        self._batch_size = batch_size
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_pending = 0

    def add(self, index: np.ndarray, tiles: np.ndarray) -> None:
        """Encode as many whole batches as there are now; keep the rest."""
        self._pending.append((index, tiles))
        self._num_pending += len(index)
        num_whole = self._num_pending - self._num_pending % self._batch_size
        if num_whole:
            index, tiles = self._take_pending()
            self._encode(index[:num_whole], tiles[:num_whole])
            if num_whole < len(index):
                self._pending = [(index[num_whole:], tiles[num_whole:].copy())]
                self._num_pending = len(index) - num_whole

    def finish(self) -> None:
        """Encode the rest."""
        if self._num_pending:
            self._encode(*self._take_pending())

    def _take_pending(self) -> tuple[np.ndarray, np.ndarray]:
        index = np.concatenate([index for index, _ in self._pending])
        tiles = np.concatenate([tiles for _, tiles in self._pending])  # a copy: torch takes no read-only arrays
        self._pending, self._num_pending = [], 0
        return index, tiles

    def _encode(self, index: np.ndarray, tiles: np.ndarray) -> None:
        # batch by batch, what several encoders make of it first (`shared_resizes`) is still at hand
        num_tiles = self._batch_size if len(self._collectors) > 1 else len(index)
        for start in range(0, len(index), num_tiles):
            part = slice(start, start + num_tiles)
            for collector in self._collectors:
                collector.encode(index[part], tiles[part])


def _lanes(collectors: Sequence["_Collector"]) -> list[_Lane]:
    by_size: dict[int, list[_Collector]] = {}
    for collector in collectors:
        by_size.setdefault(collector.batch_size, []).append(collector)
    return [_Lane(members, batch_size) for batch_size, members in by_size.items()]


class _Collector:
    """One slide's features by one encoder, while they come."""

    def __init__(self, encoder: TileEncoder, facts: PlanFacts) -> None:
        self._encoder = encoder
        self._facts = facts
        self._features_ND = np.zeros((len(facts.coords_l0_px), encoder.card.dim), dtype=np.float16)
        self.batch_size = encoder.card.batch_size
        self._running: tuple[np.ndarray, Features] | None = None
        """Rows whose features are being computed while the next tiles are prepared."""
        self.failure: BaseException | None = None
        """What this encoder raised; it takes no more tiles of the slide."""

    def finish(self, beside: _Beside) -> Encoded:
        """Put the slide together."""
        self._attempt(self._store_running)
        failure, self.failure = self.failure, None  # its traceback holds this: a cycle would keep the features
        if failure is not None:
            return failure
        facts, came_N = self._facts, beside.came_N
        is_whole = bool(came_N.all())
        return SlideFeatures(
            slide_id=facts.slide_id,
            features=self._features_ND if is_whole else self._features_ND[came_N],
            coords_l0_px=facts.coords_l0_px if is_whole else facts.coords_l0_px[came_N],
            tissue_share=facts.tissue_share if is_whole else facts.tissue_share[came_N],
            background_share=beside.background_N[came_N],
            reading=beside.reading(facts),
            cut=facts.cut,
            encoder=self._encoder.card.to_dict(),
            versions=versions_of(self._encoder.card) | getattr(self._encoder, "versions", {}),
            num_bad_tiles=int((~came_N).sum()) - beside.num_left_out,
            columns={name: values[came_N] for name, values in beside.columns.items()},
        )

    def encode(self, index: np.ndarray, tiles: np.ndarray) -> None:
        """Begin with batches of tiles, and store the features of those before."""
        self._attempt(partial(self._begin, index, tiles))

    def _attempt(self, work: Callable[[], None]) -> None:
        """Unless this encoder has failed at the slide."""
        if self.failure is not None:
            return
        try:
            work()
        except SlideError as error:
            self.failure = error
        except MhimError:  # concerns every slide
            raise
        except (Exception, SystemExit) as error:
            self.failure = error

    def _begin(self, index: np.ndarray, tiles: np.ndarray) -> None:
        features = _started(self._encoder, torch.from_numpy(tiles))
        self._store_running()
        self._running = index, features

    def _store_running(self) -> None:
        if self._running is None:
            return
        (index, features), self._running = self._running, None
        features_bD, card = features().numpy(), self._encoder.card
        if features_bD.shape != (len(index), card.dim):
            raise EncoderError(f"encoder {card.id} gave shape {features_bD.shape}, not {(len(index), card.dim)}")
        with np.errstate(over="ignore"):  # beyond float16 becomes infinite and is refused below
            stored_bD = features_bD.astype(np.float16)
        bad_b = ~np.isfinite(stored_bD).all(axis=1)
        if bad_b.any():
            x, y = self._facts.coords_l0_px[index[bad_b][0]]
            kind = "beyond float16's range" if np.isfinite(features_bD).all() else "NaN or infinite"
            raise SlideError(
                FailureReason.BAD_FEATURES,
                f"slide {self._facts.slide_id}: encoder {card.id} gave features {kind} for {int(bad_b.sum())} tiles, "
                f"the first at level-0 ({x}, {y})",
            )
        self._features_ND[index] = stored_bD


def _started(encoder: TileEncoder, tiles: torch.Tensor) -> Features:
    if isinstance(encoder, OverlappingEncoder):
        return encoder.start(tiles)
    features = encoder(tiles)
    return lambda: features


def versions_of(card: EncoderCard) -> dict[str, str]:
    """Versions of the installed packages that decode and compute; what is not installed is left out."""
    names = (
        *_PACKAGES,
        *(["timm"] if "timm_model" in card.network else []),
        *(["openvino"] if card.runtime == RUNTIME_OPENVINO else []),
    )
    return {name: installed for name in names if (installed := _version(name)) is not None}


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _check_batch(batch: Tiles, came_N: np.ndarray) -> None:
    """ValueError if the batch is not of this plan: a bug of the decoder, and features would land on wrong tiles."""
    index = batch.index
    if not len(index) == len(batch.tiles) == len(batch.background_share):
        raise ValueError(
            f"a batch of {len(batch.tiles)} tiles came with {len(index)} indices and "
            f"{len(batch.background_share)} background shares"
        )
    if len(index) and not (index.min() >= 0 and index.max() < len(came_N)):
        raise ValueError(f"a batch holds tiles {index.min()} to {index.max()} of a plan of {len(came_N)}")
    if len(np.unique(index)) != len(index) or came_N[index].any():
        raise ValueError("a tile of the plan came twice")
