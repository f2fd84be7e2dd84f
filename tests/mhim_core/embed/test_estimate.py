"""What a cohort would cost, from a sample of it."""

import numpy as np
import pytest

from mhim_core.embed.estimate import CohortSlide, SampledSlide, estimated, sample_slides
from mhim_core.embed.prices import Prices
from mhim_core.errors import ConfigError, InputError
from mhim_core.types import SlideId


def cohort(num: int, kind: str = ".svs", seed: int = 0) -> dict[SlideId, CohortSlide]:
    sizes = np.random.default_rng(seed).integers(10**8, 10**9, num)
    return {SlideId(f"{kind[1:]}{index}"): CohortSlide(int(size), kind) for index, size in enumerate(sizes)}


def measured(slide: CohortSlide, tiles_per_mb: float = 10.0) -> SampledSlide:
    return SampledSlide(round(slide.num_bytes / 1e6 * tiles_per_mb), plan_s=1.0, read_s=0.1, num_read=100)


def test_a_cohort_that_follows_its_bytes_is_estimated_to_the_tile() -> None:
    slides = cohort(500)
    chosen = sample_slides(slides, 20)
    estimate = estimated(
        slides, {name: measured(slides[name]) for name in chosen}, dim=1024, encoder_tiles_per_s=100.0, prices=Prices()
    )
    num_tiles = sum(slide.num_bytes for slide in slides.values()) / 1e6 * 10
    assert estimate.tiles.expected == pytest.approx(num_tiles, rel=1e-3)
    assert estimate.tiles.low <= estimate.tiles.expected <= estimate.tiles.high
    assert estimate.encode_hours.expected == pytest.approx(num_tiles / 100 / 3600, rel=1e-3)
    assert estimate.feature_gb.expected == pytest.approx(num_tiles * (2048 + 24) / 1e9, rel=1e-3)
    assert (estimate.reads, estimate.writes) == (3000, 1000)


def test_every_format_counts_by_its_own_rate() -> None:
    """A byte of JPEG 2000 holds four times the tiles here, and a ninth of the cohort is of it."""
    jpeg, others = cohort(400), cohort(50, ".jp2", seed=1)
    slides = jpeg | others
    chosen = sample_slides(slides, 45)
    rates = {".svs": 10.0, ".jp2": 40.0}
    assert {slides[name].kind for name in chosen} == set(rates)
    sampled = {name: measured(slides[name], rates[slides[name].kind]) for name in chosen}
    estimate = estimated(slides, sampled, dim=8, encoder_tiles_per_s=1.0, prices=Prices())
    truth = sum(slide.num_bytes / 1e6 * rates[slide.kind] for slide in slides.values())
    assert estimate.tiles.expected == pytest.approx(truth, rel=1e-3)


@pytest.mark.thorough
def test_the_interval_holds_the_truth_of_noisy_slides_most_of_the_time() -> None:
    """95 % of samples of 32 slides; 87 of 100 and more are within chance and the bootstrap's optimism."""
    slides = cohort(1000)
    generator = np.random.default_rng(7)
    truth = {name: measured(slide, float(generator.gamma(4, 2.5))) for name, slide in slides.items()}
    total = sum(row.num_tiles for row in truth.values())
    hits = 0
    for _ in range(100):
        chosen = [SlideId(str(name)) for name in generator.choice(list(slides), 32, replace=False)]
        sampled = {name: truth[name] for name in chosen}
        tiles = estimated(slides, sampled, dim=8, encoder_tiles_per_s=1.0, prices=Prices()).tiles
        hits += tiles.low <= total <= tiles.high
    assert hits >= 87


def test_slides_that_fail_or_are_empty_have_no_tiles() -> None:
    slides = cohort(100)
    chosen = sample_slides(slides, 10)
    whole = {name: measured(slides[name]) for name in chosen}
    half = whole | {name: SampledSlide(0, 0.0, 0.0, 0) for name in chosen[::2]}
    of_whole = estimated(slides, whole, dim=8, encoder_tiles_per_s=1.0, prices=Prices()).tiles.expected
    of_half = estimated(slides, half, dim=8, encoder_tiles_per_s=1.0, prices=Prices()).tiles.expected
    assert 0.3 * of_whole < of_half < 0.7 * of_whole


def test_a_cohort_sampled_whole_has_no_interval() -> None:
    slides = cohort(5)
    sampled = {name: measured(slides[name]) for name in sample_slides(slides, 32)}
    estimate = estimated(slides, sampled, dim=8, encoder_tiles_per_s=1.0, prices=Prices())
    assert estimate.tiles == (sum(row.num_tiles for row in sampled.values()),) * 3
    assert estimate.decoders_per_encoder == pytest.approx(
        sum(1.0 + row.num_tiles * 0.001 for row in sampled.values()) / estimate.tiles.expected
    )


def test_slides_of_unknown_size_count_as_the_mean() -> None:
    slides = cohort(50) | {SlideId(f"x{index}"): CohortSlide(0, ".svs") for index in range(50)}
    known = [name for name in sample_slides(slides, 100) if slides[name].num_bytes][::5]
    sampled = {name: measured(slides[name]) for name in known}
    tiles = estimated(slides, sampled, dim=8, encoder_tiles_per_s=1.0, prices=Prices()).tiles.expected
    assert tiles == pytest.approx(2 * sum(slide.num_bytes for slide in slides.values()) / 1e6 * 10, rel=0.01)


def test_prices_add_up() -> None:
    slides = cohort(1000)
    prices = Prices(
        price_gpu_hour=2.0, price_cpu_hour=0.05, price_1000_reads=0.0004, price_1000_writes=0.005, price_gb_month=0.023
    )
    sampled = {name: measured(slides[name]) for name in sample_slides(slides, 32)}
    estimate = estimated(slides, sampled, dim=1024, encoder_tiles_per_s=1000.0, prices=prices)
    requests = 6 * 0.0004 + 2 * 0.005
    hours = 2.0 * estimate.encode_hours.expected + 0.05 * estimate.decode_hours.expected
    assert estimate.cost.expected == pytest.approx(hours + requests)
    assert estimate.monthly.expected == pytest.approx(0.023 * estimate.feature_gb.expected)


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(InputError):
        estimated(cohort(3), {}, dim=8, encoder_tiles_per_s=1.0, prices=Prices())
    with pytest.raises(ConfigError, match="price_gb_month"):
        Prices(price_gb_month=-1.0)


def test_the_sample_is_spread_over_the_sizes_and_always_the_same() -> None:
    slides = cohort(1000)
    chosen = sample_slides(slides, 10)
    assert chosen == sample_slides(dict(reversed(slides.items())), 10)
    assert len(set(chosen)) == 10
    ranks = sorted(slides, key=lambda name: slides[name].num_bytes)
    assert [ranks.index(name) // 100 for name in chosen] == list(range(10))
