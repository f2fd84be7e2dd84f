"""What embedding a cohort will cost, from a sample of its slides: tiles, hours, bytes, requests, money.

A slide's tiles and the seconds to look at it are taken in proportion to its bytes, by file format (a ratio estimator);
intervals are those of the bootstrap over the sampled slides. Standard library and NumPy: nothing is decoded here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.embed.prices import Prices
from mhim_core.errors import InputError
from mhim_core.types import SlideId

READS_PER_SLIDE, WRITES_PER_SLIDE = 6, 2
"""Requests of one embedded slide with slides and store on an object store, its ranges left out (docs/scale.md)."""
BYTES_PER_FEATURE = 2
"""float16; compression takes a tenth to a third off, which is not counted."""
BYTES_PER_TILE = 24
"""Place and shares of a tile in a feature file, beside its features."""
_REPLICATES = 1000
_MIN_OF_KIND = 3
"""Sampled slides of a format before its own rate is taken."""
_QUANTILES = (0.025, 0.975)


class CohortSlide(NamedTuple):
    """A slide of the cohort, as a listing knows it."""

    num_bytes: int
    """0 where it is not known."""
    kind: str
    """Of its file, such as `.svs`."""


class SampledSlide(NamedTuple):
    """What was measured of a slide of the sample; a slide that fails or has no tissue has no tiles."""

    num_tiles: int
    plan_s: float
    """CPU seconds to open it, find its tissue and plan its tiles."""
    read_s: float
    """CPU seconds to read `num_read` of its tiles."""
    num_read: int


class Range(NamedTuple):
    """An expected value and the 95 % interval of sampling; speeds and prices are taken as given."""

    expected: float
    low: float
    high: float

    def times(self, factor: float) -> "Range":
        return Range(*(value * factor for value in self))


class Estimate(NamedTuple):
    """What the whole cohort comes to."""

    num_slides: int
    num_sampled: int
    tiles: Range
    decode_hours: Range
    """Of one core like the one that was measured: planning and reading."""
    encode_hours: Range
    """Of one encoder."""
    decoders_per_encoder: float
    """Cores that decode as fast as one encoder encodes: with fewer it waits."""
    slide_gb: float
    """Of the slides whose size is known."""
    feature_gb: Range
    """Before compression."""
    reads: int
    writes: int
    cost: Range
    """Without storage, which is paid for each month: `monthly`."""
    monthly: Range


def sample_slides(slides: Mapping[SlideId, CohortSlide], num: int) -> list[SlideId]:
    """At most `num` of them: evenly spaced among the slides in order of format and size, so that each format and size
    is there by its share. Always the same of the same cohort."""
    ordered = sorted(slides, key=lambda slide_id: (slides[slide_id].kind, slides[slide_id].num_bytes, slide_id))
    if len(ordered) <= num:
        return ordered
    places = (np.arange(num) + 0.5) * len(ordered) / num
    return [ordered[int(place)] for place in places]


def estimated(
    slides: Mapping[SlideId, CohortSlide],
    sampled: Mapping[SlideId, SampledSlide],
    *,
    dim: int,
    encoder_tiles_per_s: float,
    prices: Prices,
) -> Estimate:
    """The cohort's costs. `dim`: features of a tile; `encoder_tiles_per_s`: tiles that one encoder takes a second.

    Raises InputError if no slide was sampled.
    """
    if not sampled:
        raise InputError("the cohort has no slide that an estimate could be made from")
    num_read = sum(row.num_read for row in sampled.values())
    read_s_per_tile = _ratio(sum(row.read_s for row in sampled.values()), float(num_read))
    tiles = _extrapolated(slides, sampled, lambda row: row.num_tiles)
    decode_s = _extrapolated(slides, sampled, lambda row: row.plan_s + row.num_tiles * _read_s(row, read_s_per_tile))
    encode_hours = tiles.times(1 / encoder_tiles_per_s / 3600)
    decode_hours = decode_s.times(1 / 3600)
    feature_gb = tiles.times((dim * BYTES_PER_FEATURE + BYTES_PER_TILE) / 1e9)
    reads, writes = READS_PER_SLIDE * len(slides), WRITES_PER_SLIDE * len(slides)
    requests = reads / 1000 * prices.price_1000_reads + writes / 1000 * prices.price_1000_writes
    return Estimate(
        num_slides=len(slides),
        num_sampled=len(sampled),
        tiles=tiles,
        decode_hours=decode_hours,
        encode_hours=encode_hours,
        decoders_per_encoder=_ratio(decode_hours.expected, encode_hours.expected),
        slide_gb=sum(slide.num_bytes for slide in slides.values()) / 1e9,
        feature_gb=feature_gb,
        reads=reads,
        writes=writes,
        cost=Range(
            *(
                encode * prices.price_gpu_hour + decode * prices.price_cpu_hour + requests
                for encode, decode in zip(encode_hours, decode_hours, strict=True)
            )
        ),
        monthly=feature_gb.times(prices.price_gb_month),
    )


def _read_s(row: SampledSlide, others: float) -> float:
    """CPU seconds for a tile."""
    return row.read_s / row.num_read if row.num_read else others


def _extrapolated(
    slides: Mapping[SlideId, CohortSlide],
    sampled: Mapping[SlideId, SampledSlide],
    value_of: Callable[[SampledSlide], float],
) -> Range:
    """The sum over the cohort of what `value_of` gives for each slide: those sampled as they are, others by size."""
    known = [slide.num_bytes for slide in slides.values() if slide.num_bytes]
    mean = float(np.mean(known)) if known else 1.0
    names = list(sampled)
    sizes = np.array([float(slides[name].num_bytes or mean) for name in names])
    values = np.array([float(value_of(sampled[name])) for name in names])
    kinds = np.array([slides[name].kind for name in names])
    left: dict[str, float] = {}
    for name, slide in slides.items():
        if name not in sampled:
            left[slide.kind] = left.get(slide.kind, 0.0) + (slide.num_bytes or mean)

    def rest(chosen: np.ndarray) -> float:
        total = 0.0
        for kind, size in left.items():
            of_kind = chosen[kinds[chosen] == kind]
            by = of_kind if len(of_kind) >= _MIN_OF_KIND else chosen
            total += size * _ratio(float(values[by].sum()), float(sizes[by].sum()))
        return total

    every = np.arange(len(names))
    expected = float(values.sum()) + rest(every)
    if not left:
        return Range(expected, expected, expected)
    generator = np.random.Generator(np.random.Philox(0))
    drawn = [rest(generator.choice(every, len(every))) for _ in range(_REPLICATES)]
    low, high = float(values.sum()) + np.quantile(drawn, _QUANTILES)
    return Range(expected, float(low), float(high))


def _ratio(over: float, under: float) -> float:
    return over / under if under else 0.0


def estimate_lines(estimate: Estimate, *, encoder: str, measured: str) -> Sequence[str]:
    """Lines for people. `measured`: where the encoder's speed is from."""
    basis = "95 % intervals of this sample"
    if estimate.num_sampled < _FEW and estimate.num_sampled < estimate.num_slides:
        basis = f"95 % intervals, of fewer than {_FEW} slides: take them for a guess"
    lines = [
        f"estimate for {estimate.num_slides:,} slides, from {estimate.num_sampled:,} of them "
        f"({basis}; speeds are those of this machine)",
        f"  tiles            {_text(estimate.tiles, ',.0f')}",
        f"  to read          {_in_units(Range(*[estimate.slide_gb] * 3), _BYTES)} of slides",
        f"  decoding         {_in_units(estimate.decode_hours, _HOURS)} of one core",
        f"  encoding         {_in_units(estimate.encode_hours, _HOURS)} of one {encoder} encoder ({measured})",
        f"  cores            {estimate.decoders_per_encoder:.2g} for decoding keep one encoder busy",
        f"  features         {_in_units(estimate.feature_gb, _BYTES)} before compression",
        f"  requests         {estimate.reads:,} reads and {estimate.writes:,} writes with slides and store at s3://; "
        "slides that are read by ranges take 30 to 70 reads each",
    ]
    if estimate.cost.expected:
        lines.append(f"  cost             {_text(estimate.cost, ',.2f')}, at the prices given")
    if estimate.monthly.expected:
        lines.append(f"  storage          {_text(estimate.monthly, ',.2f')} a month")
    return lines


_FEW = 5
"""Slides of a sample, below which its spread says little."""
_BYTES = ((1000.0, "TB"), (1.0, "GB"), (1e-3, "MB"), (1e-6, "kB"))
"""Units, in GB."""
_HOURS = ((1.0, "hours"), (1 / 60, "minutes"), (1 / 3600, "seconds"))


def _in_units(value: Range, units: Sequence[tuple[float, str]]) -> str:
    """In the largest unit of which there is one, else the smallest."""
    size, name = next((unit for unit in units if value.expected >= unit[0]), units[-1])
    return f"{_text(value.times(1 / size), ',.3g')} {name}"


def _text(value: Range, form: str) -> str:
    low, high = f"{value.low:{form}}", f"{value.high:{form}}"
    interval = f" ({low} to {high})" if low != high else ""
    expected = f"{value.expected:{form}}"
    return f"{'under 0.01' if expected == '0.00' and value.expected else expected}{interval}"
