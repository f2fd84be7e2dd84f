import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mhim_core.embed.card import EncoderCard
from mhim_core.embed.encoder import TileEncoder, TorchEncoder
from mhim_core.embed.facts import PlanFacts
from mhim_core.embed.slide_encoder import SlideEncoder, versions_of
from mhim_core.embed.transform import TileTransform, transform_facts
from mhim_core.errors import EncoderError, SlideError
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideFeatures, SlideReading, SourceHint, SourceIdentity, TileCut
from mhim_core.types import FailureReason, SlideId


class Batch(NamedTuple):
    index: np.ndarray
    tiles: np.ndarray

    @property
    def background_share(self) -> np.ndarray:
        return self.index.astype(np.float32) / 32

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return {}

    @property
    def left_out(self) -> tuple[int, ...]:
        return ()


class MeanColour:
    """A pure function of each tile, times a factor."""

    def __init__(self, factor: float = 1.0, batch_size: int = 8) -> None:
        self.card = EncoderCard(
            id="mean-colour",
            source="",
            weights_sha256="",
            revision="",
            licence="",
            pooling="avg",
            network={},
            transform={},
            dim=3,
            batch_size=batch_size,
        )
        self.factor = factor
        self.num_tiles_per_call: list[int] = []

    def __call__(self, tiles: Tensor) -> Tensor:
        self.num_tiles_per_call.append(len(tiles))
        return tiles.float().mean((1, 2)) * self.factor


def make_facts(num_tiles: int) -> PlanFacts:
    return PlanFacts(
        slide_id=SlideId("slide-1"),
        coords_l0_px=np.stack([np.arange(num_tiles) * 10, np.arange(num_tiles) + 5], axis=1).astype(np.int32),
        tissue_share=np.linspace(0.5, 1, num_tiles).astype(np.float32),
        reading=SlideReading(
            source=SourceIdentity(1, "ab"),
            hint=SourceHint("/slides/s.svs", 1, "2"),
            source_sha256="",
            mpp=MppUsed(0.5, 0.5, "slide"),
            effective_mpp=(0.5, 0.5),
            upsample=1.0,
            backend=BACKEND_OF_0_1,
        ),
        cut=TileCut(tiling={"tile_px": 96}, tile_size_l0_px=(96, 96), width_l0_px=1000, height_l0_px=800),
    )


def in_batches(tiles: Tensor, sizes: list[int]) -> Iterator[Batch]:
    start = 0
    for size in sizes:
        index = np.arange(start, min(start + size, len(tiles)))
        yield Batch(index, tiles.numpy()[index])
        start += size


def test_a_real_networks_features_are_stored_as_its_float16_bits(any_encoder: TileEncoder, noisy_tiles: Tensor) -> None:
    tiles = noisy_tiles[:11]
    (encoded,) = SlideEncoder([any_encoder])(in_batches(tiles, [5, 6]), make_facts(11))
    assert encoded.features.tobytes() == any_encoder(tiles).numpy().astype(np.float16).tobytes()
    assert encoded.encoder == any_encoder.card.to_dict()


@pytest.mark.parametrize("sizes", [[21], [1] * 21, [5, 0, 16], [8, 8, 5], [20, 1]])
def test_how_tiles_arrive_changes_no_bit(hed_texture: TileEncoder, noisy_tiles: Tensor, sizes: list[int]) -> None:
    (encoded,) = SlideEncoder([hed_texture])(in_batches(noisy_tiles, sizes), make_facts(21))
    assert encoded.features.dtype == np.float16
    assert encoded.features.tobytes() == hed_texture(noisy_tiles).numpy().astype(np.float16).tobytes()
    assert encoded.num_bad_tiles == 0


def test_tiles_out_of_order_land_in_plan_order(noisy_tiles: Tensor) -> None:
    order = np.random.default_rng(0).permutation(21)
    batches = [Batch(part, noisy_tiles.numpy()[part]) for part in np.split(order, [4, 13])]
    (encoded,) = SlideEncoder([MeanColour()])(batches, make_facts(21))
    assert np.array_equal(encoded.features, noisy_tiles.float().mean((1, 2)).numpy().astype(np.float16))
    assert np.array_equal(encoded.coords_l0_px, make_facts(21).coords_l0_px)
    assert encoded.background_share.dtype == np.float32
    assert np.array_equal(encoded.background_share, np.arange(21) / 32)


def test_tiles_that_never_came_are_left_out_and_counted(noisy_tiles: Tensor) -> None:
    kept = np.array([0, 3, 4, 20])
    (encoded,) = SlideEncoder([MeanColour()])([Batch(kept, noisy_tiles.numpy()[kept])], make_facts(21))
    assert encoded.num_bad_tiles == 17
    assert np.array_equal(encoded.coords_l0_px, make_facts(21).coords_l0_px[kept])
    assert np.array_equal(encoded.tissue_share, make_facts(21).tissue_share[kept])
    assert np.array_equal(encoded.background_share, kept / 32)
    assert np.array_equal(encoded.features, noisy_tiles[kept].float().mean((1, 2)).numpy().astype(np.float16))


def test_a_slide_without_tissue_has_no_rows_and_is_no_failure() -> None:
    encoder = MeanColour()
    (encoded,) = SlideEncoder([encoder])([], make_facts(0))
    assert encoded.features.shape == (0, 3)
    assert encoded.features.dtype == np.float16
    assert encoder.num_tiles_per_call == []


def test_planned_tiles_of_which_none_came_are_a_failed_read() -> None:
    with pytest.raises(SlideError, match="none of its 4 planned tiles") as caught:
        SlideEncoder([MeanColour()])([], make_facts(4))
    assert caught.value.reason is FailureReason.READ


def test_several_encoders_share_one_pass_over_the_tiles(noisy_tiles: Tensor) -> None:
    encoders = [MeanColour(1.0, batch_size=8), MeanColour(2.0, batch_size=6)]
    batches = iter(list(in_batches(noisy_tiles, [9, 12])))
    first, second = SlideEncoder(encoders)(batches, make_facts(21))
    assert np.allclose(second.features, 2 * first.features.astype(np.float32), rtol=1e-3)
    for encoder in encoders:
        assert all(num % encoder.card.batch_size == 0 for num in encoder.num_tiles_per_call[:-1])
        assert sum(encoder.num_tiles_per_call) == 21


@pytest.mark.parametrize(
    ("factor", "complaint"), [(float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite"), (1e6, "float16")]
)
def test_features_that_cannot_be_stored_fail_the_slide(noisy_tiles: Tensor, factor: float, complaint: str) -> None:
    with pytest.raises(SlideError, match=rf"slide-1.*{complaint}.*\(0, 5\)") as caught:
        SlideEncoder([MeanColour(factor)])(in_batches(noisy_tiles, [21]), make_facts(21))
    assert caught.value.reason is FailureReason.BAD_FEATURES
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_encoder_that_fails_leaves_the_others_their_features(noisy_tiles: Tensor) -> None:
    class Raises(MeanColour):
        def __call__(self, tiles: Tensor) -> Tensor:
            raise RuntimeError("odd")

    alone = MeanColour()
    (expected,) = SlideEncoder([alone])(in_batches(noisy_tiles, [9, 12]), make_facts(21))
    nan, raises, good = MeanColour(float("nan")), Raises(), MeanColour()
    results = SlideEncoder([nan, raises, good]).each(in_batches(noisy_tiles, [9, 12]), make_facts(21))
    assert isinstance(results[0], SlideError)
    assert results[0].reason is FailureReason.BAD_FEATURES
    assert isinstance(results[1], RuntimeError)
    assert isinstance(results[2], SlideFeatures)
    assert results[2].features.tobytes() == expected.features.tobytes()
    assert nan.num_tiles_per_call == [8, 8], "looked at once the next batch is under way, and not asked again"
    assert good.num_tiles_per_call == alone.num_tiles_per_call
    with pytest.raises(SlideError, match="NaN"):
        SlideEncoder([good, nan, raises])(in_batches(noisy_tiles, [9, 12]), make_facts(21))


def small_network(seed: int, interpolation: str, batch_size: int) -> TorchEncoder:
    facts = transform_facts(64, (0.5, 0.4, 0.3 + 0.1 * seed), (0.2, 0.2, 0.1 + 0.1 * seed), interpolation)
    torch.manual_seed(seed)
    layers = (TileTransform(facts), nn.Conv2d(3, 4, 7, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fields = MeanColour(batch_size=batch_size).card.to_dict()
    card = EncoderCard.from_dict(fields | {"id": f"small-{seed}", "dim": 4, "transform": facts})
    return TorchEncoder(card, nn.Sequential(*layers))


def test_networks_that_resize_alike_share_it_and_get_the_bits_that_each_would_alone(
    noisy_tiles: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = [
        small_network(seed, interpolation, batch_size)
        for seed, (interpolation, batch_size) in enumerate(
            [("bicubic", 8), ("bicubic", 8), ("bilinear", 8), ("bicubic", 4)]
        )
    ]
    alone = [SlideEncoder([encoder])(in_batches(noisy_tiles, [9, 12]), make_facts(21))[0] for encoder in encoders]
    interpolate, modes = torch.nn.functional.interpolate, []

    def count(pixels: Tensor, **how: Any) -> Tensor:
        modes.append(how["mode"])
        return interpolate(pixels, **how)

    monkeypatch.setattr("torch.nn.functional.interpolate", count)
    together = SlideEncoder(encoders)(in_batches(noisy_tiles, [9, 12]), make_facts(21))
    assert [own.features.tobytes() for own in together] == [own.features.tobytes() for own in alone]
    assert Counter(modes) == {"bicubic": 3 + 6, "bilinear": 3}, "21 tiles by eights and by fours"
    modes.clear()
    SlideEncoder(encoders[:1])(in_batches(noisy_tiles, [21]), make_facts(21))
    assert len(modes) == 3


def test_once_all_encoders_have_failed_no_tile_is_asked_for(noisy_tiles: Tensor) -> None:
    batches = in_batches(noisy_tiles, [9, 8, 4])
    results = SlideEncoder([MeanColour(float("nan"))] * 2).each(batches, make_facts(21))
    assert all(isinstance(result, SlideError) for result in results)
    assert len(next(batches).index) == 4


def test_encoders_at_some_places_alone(noisy_tiles: Tensor) -> None:
    encoders = [MeanColour(1.0), MeanColour(2.0), MeanColour(3.0)]
    assert SlideEncoder(encoders).only([2, 0]).encoders == (encoders[2], encoders[0])


def test_read_only_arrays_are_taken_and_left_alone(noisy_tiles: Tensor) -> None:
    tiles = noisy_tiles.numpy().copy()
    tiles.flags.writeable = False
    (encoded,) = SlideEncoder([MeanColour()])([Batch(np.arange(21), tiles)], make_facts(21))
    assert len(encoded.features) == 21
    assert np.array_equal(tiles, noisy_tiles.numpy())


@pytest.mark.parametrize(
    ("index", "complaint"),
    [([0, 0], "twice"), ([-1, 0], "plan of 3"), ([2, 3], "plan of 3"), ([0], "1 indices")],
)
def test_a_batch_that_is_not_of_the_plan_is_a_bug(noisy_tiles: Tensor, index: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SlideEncoder([MeanColour()])([Batch(np.array(index), noisy_tiles.numpy()[:2])], make_facts(3))


def test_a_batch_that_lacks_background_shares_is_a_bug(noisy_tiles: Tensor) -> None:
    whole = next(in_batches(noisy_tiles, [3]))
    lacking = SimpleNamespace(
        index=whole.index, tiles=whole.tiles, background_share=whole.background_share[:1], columns={}, left_out=()
    )
    with pytest.raises(ValueError, match="1 background shares"):
        SlideEncoder([MeanColour()])([lacking], make_facts(3))


def test_a_tile_that_comes_in_two_batches_is_a_bug(noisy_tiles: Tensor) -> None:
    batch = Batch(np.array([1]), noisy_tiles.numpy()[:1])
    with pytest.raises(ValueError, match="twice"):
        SlideEncoder([MeanColour()])([batch, batch], make_facts(3))


def test_what_the_decoder_raises_passes_through_and_the_next_slide_is_untouched(noisy_tiles: Tensor) -> None:
    def broken() -> Iterator[Batch]:
        yield from in_batches(noisy_tiles[:3], [3])
        raise SlideError(FailureReason.READ, "sector lost")

    encoder = SlideEncoder([MeanColour()])
    with pytest.raises(SlideError, match="sector lost"):
        encoder(broken(), make_facts(21))
    (encoded,) = encoder(in_batches(noisy_tiles, [21]), make_facts(21))
    assert np.array_equal(encoded.features, noisy_tiles.float().mean((1, 2)).numpy().astype(np.float16))


def test_no_encoder_at_all_is_refused() -> None:
    with pytest.raises(EncoderError, match="no encoder"):
        SlideEncoder([])


def test_an_encoder_that_breaks_its_card_is_refused(noisy_tiles: Tensor) -> None:
    encoder = MeanColour()
    encoder.card = EncoderCard.from_dict(encoder.card.to_dict() | {"dim": 4})
    with pytest.raises(EncoderError, match=r"\(16, 3\), not \(16, 4\)"):
        SlideEncoder([encoder])(in_batches(noisy_tiles, [21]), make_facts(21))


def test_facts_travel_between_processes() -> None:
    facts = pickle.loads(pickle.dumps(make_facts(3)))
    assert np.array_equal(facts.coords_l0_px, make_facts(3).coords_l0_px)
    assert facts.reading == make_facts(3).reading


def test_versions_name_what_computed(hed_texture: TileEncoder) -> None:
    assert versions_of(hed_texture.card)["torch"] == torch.__version__
    assert "timm" not in versions_of(hed_texture.card)


def test_tiles_go_to_an_overlapping_encoder_before_it_is_waited_for_and_all_features_come() -> None:
    """One batch ahead, never across slides, and a bad feature of the last batch is still this slide's."""
    events: list[str] = []

    class Overlapping(MeanColour):
        def start(self, tiles: Tensor) -> Callable[[], Tensor]:
            number = sum(event.startswith("start") for event in events)
            events.append(f"start {number}")

            def wait() -> Tensor:
                events.append(f"wait {number}")
                return self(tiles)

            return wait

    tiles = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    batches = [Batch(np.arange(start, start + 8), tiles[start : start + 8]) for start in (0, 8, 16)]
    (overlapped,) = SlideEncoder([Overlapping()])(iter(batches), make_facts(24))
    assert events == ["start 0", "start 1", "wait 0", "start 2", "wait 1", "wait 2"]
    (alone,) = SlideEncoder([MeanColour()])(iter(batches), make_facts(24))
    assert np.array_equal(overlapped.features, alone.features)
    with pytest.raises(SlideError, match="NaN or infinite"):
        SlideEncoder([Overlapping(factor=float("nan"))])(iter(batches[:1]), make_facts(8))
