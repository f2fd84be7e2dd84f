"""Are foci found better by discovery and selection than by the raw attention? FROC on foci of known place.

    python benchmarks/foci.py --demo DIR [--models plain,mhim] [--out FILE]
    python benchmarks/foci.py --data DIR [--seeds 3] [--bags 30] [--out FILE]

--demo: the out= of `mhim demo`, whose test slides have painted foci. --data: DIR holds kather_texture.npz; test bags of
`planted_bags` are laid on a grid, the tiles of one kind of evidence side by side, each patch a focus; two models are
fitted on its training bags, stage 1 and the default student. Findings of a slide are at most 40 places; one lies in a
focus if a quarter of its tile does. Mean sensitivity at 1/4 … 8 false positives a slide, with 95 % intervals and paired
differences over 1,000 bootstrap draws of slides. The last line is one JSON object.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hard_bags import TASK
from pair_fits import EPOCHS
from planted_sets import LOUD, PARTS, QUIET, Planted

from mhim_core.evaluation.discovery import DiscoveryOptions, find_foci, peaks
from mhim_core.evaluation.froc import Finding, FoundSlide, froc
from mhim_core.evaluation.localisation import INSIDE
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.store.schema import FeatureTable
from mhim_core.train.asking import AskedBag
from mhim_core.train.context import SingleProcess
from mhim_core.train.fit_options import FitExecution, FitOptions, Selection
from mhim_core.train.inference import Voter
from mhim_core.train.loop import run_fits
from mhim_core.train.model_file import load_model
from mhim_core.train.plan import FoldBags, Stage, TrainPlan, plan_fits
from mhim_core.train.results import read_model
from mhim_core.types import SlideId

POSITIVE = 1
MAX_FINDINGS = 40
DRAWS = 1000
OPTIONS = DiscoveryOptions()
NEARER = 1.5
"""Sides of a tile, in place of 3."""


class Slide(NamedTuple):
    """One test slide with the share of each tile in each of its foci."""

    table: FeatureTable
    tile_size: tuple[int, int]
    shares: list[np.ndarray]
    """(N,) a focus."""


Way = Callable[[Slide, AskedBag], list[tuple[float, int]]]
"""Scored places: (score, row)."""


def raw(slide: Slide, asked: AskedBag, radius: float = OPTIONS.radius) -> list[tuple[float, int]]:
    """The attention's own peaks, by attention."""
    attention = asked.prediction.attention[0].astype(np.float64)
    places = slide.table.coords_l0_px / np.asarray(slide.tile_size)
    rows = peaks(attention, places, DiscoveryOptions(per_round=MAX_FINDINGS, radius=radius))
    return [(float(attention[row]), row) for row in rows]


def raw_nearer(slide: Slide, asked: AskedBag) -> list[tuple[float, int]]:
    """With findings that may lie nearer to each other, times the slide's probability."""
    probability = asked.score(np.arange(len(asked)))
    return [(score * probability, row) for score, row in raw(slide, asked, NEARER)]


def raw_times_score(slide: Slide, asked: AskedBag) -> list[tuple[float, int]]:
    """The same, times the slide's probability of disease."""
    probability = asked.score(np.arange(len(asked)))
    return [(score * probability, row) for score, row in raw(slide, asked)]


def tiles_times_score(slide: Slide, asked: AskedBag) -> list[tuple[float, int]]:
    """The same, with attention counted in even shares, so that a large slide's is not smaller."""
    return [(score * len(asked), row) for score, row in raw_times_score(slide, asked)]


def _discovered(options: DiscoveryOptions, by: str) -> Way:
    def way(slide: Slide, asked: AskedBag) -> list[tuple[float, int]]:
        foci = find_foci(slide.table.coords_l0_px, slide.tile_size, asked, options)
        return [(float(getattr(focus, by)), focus.peak) for focus in foci][:MAX_FINDINGS]

    return way


WAYS: dict[str, Way] = {
    "attention": raw,
    "attention x probability": raw_times_score,
    "attention x tiles x probability": tiles_times_score,
    "discovery, sufficiency x necessity": _discovered(OPTIONS, "selection"),
    "discovery, sufficiency": _discovered(OPTIONS, "sufficiency"),
    "no erasing, sufficiency": _discovered(DiscoveryOptions(rounds=0), "sufficiency"),
    "no context, sufficiency": _discovered(DiscoveryOptions(context_tiles=0), "sufficiency"),
    "nearer, attention x probability": raw_nearer,
    "nearer, discovery, sufficiency": _discovered(DiscoveryOptions(radius=NEARER, per_round=16), "sufficiency"),
}


def found(slide: Slide, places: Sequence[tuple[float, int]]) -> FoundSlide:
    """Which focus each place lies in, if any."""
    findings = []
    for score, row in places:
        inside = [number for number, share in enumerate(slide.shares) if share[row] >= INSIDE]
        findings.append(Finding(score, inside[0] if inside else None))
    return FoundSlide(tuple(findings), len(slide.shares))


def demo_slides(folder: Path) -> Iterator[tuple[Slide, Mapping[str, Voter]]]:
    """The demo's test slides, with the fold's models."""
    from flows.runs.fits import load_fold, results_of
    from flows.runs.folder import read_run
    from mhim_core.cohort.tasks import bags_in
    from mhim_core.demo.truth import focus_shares, read_truth

    run, truth = read_run(str(folder / "run")), read_truth((folder / "slides/truth.json").read_bytes())
    [fits], [split] = results_of(run), run.splits
    source, voters = run.bag_source(), load_fold(run, fits).voters
    for bag in bags_in(run.bags, split.test):
        [table] = source.read_tables(bag.bag_id)
        width, height = table.metadata["tile_size_l0_px"]
        size = (int(width), int(height))
        foci = truth[table.slide_id].foci
        shares = [focus_shares((focus,), table.coords_l0_px, size) for focus in foci]
        # a focus of which no tile holds a quarter cannot be found by any tile
        yield Slide(table, size, [share for share in shares if share.max() >= INSIDE]), voters


GRID, TILE = 24, 100
PATCH_GAP = 8
"""Tiles between the corners of two patches, so that no place is near both."""


def planted_slides(data: Path, seeds: int, num_bags: int, scratch: Path) -> Iterator[tuple[Slide, Mapping[str, Voter]]]:
    """The test bags of every seed on a grid, each kind of evidence in a patch, with models of that seed's training."""
    bags = Planted(data / "kather_texture.npz")
    for seed in range(seeds):
        drawn = bags.draw(seed)
        plan = TrainPlan(
            fits=plan_fits([FoldBags(0, drawn.train, drawn.validation)], Stage.mhim, TASK, [seed]),
            d_in=drawn.source.dim,
            task=TASK,
            model=ModelOptions(aggregator="abmil", embed_dim=64),
            mhim=MhimOptions(),
            fit=FitOptions(epochs=EPOCHS, learning_rate=5e-4, selection=Selection.last, seed=seed),
            execution=FitExecution(checkpoint_every=0),
        )
        storage = LocalStorage(scratch / str(seed))
        results = run_fits(plan, drawn.source, storage, SingleProcess())
        voters = {}
        for name, result in zip(("plain", "mhim"), results, strict=True):
            loaded = load_model(read_model(storage, result))
            voters[name] = Voter(loaded.student, loaded.card.append_recycled, loaded.card.task)
        generator = np.random.default_rng(seed)
        for part in PARTS:
            for bag in drawn.test[part][:num_bags]:
                evidence = drawn.evidence[bag.bag_id]
                yield _laid(drawn.source.read(bag.bag_id).numpy(), evidence, generator), voters


def _laid(x: np.ndarray, evidence: np.ndarray, generator: np.random.Generator) -> Slide:
    """One bag on the grid: loud and quiet tiles in squares with their corners apart, all others anywhere else."""
    corners = generator.permutation([(column, row) for column in (3, 3 + PATCH_GAP) for row in (3, 3 + PATCH_GAP)])
    taken: dict[int, tuple[int, int]] = {}
    shares = []
    for kind, (column, row) in zip((LOUD, QUIET), corners.tolist(), strict=False):
        own = np.flatnonzero(evidence == kind)
        if not len(own):
            continue
        side = math.ceil(math.sqrt(len(own)))
        for number, tile in enumerate(own.tolist()):
            taken[tile] = (column + number % side, row + number // side)
        shares.append((evidence == kind).astype(np.float64))
    used = set(taken.values())
    free = [(column, row) for row in range(GRID) for column in range(GRID) if (column, row) not in used]
    places = iter(generator.permutation(free).tolist())
    cells = [taken[tile] if tile in taken else tuple(next(places)) for tile in range(len(x))]
    coords = np.array(cells, np.int32) * TILE
    empty = np.zeros(len(x), np.float32)
    return Slide(FeatureTable(SlideId("planted"), x, coords, empty, empty, {}), (TILE, TILE), shares)


def judged(slides: Sequence[tuple[Slide, Mapping[str, Voter]]], models: Sequence[str]) -> dict[str, list[FoundSlide]]:
    """By model and way."""
    results: dict[str, list[FoundSlide]] = {}
    for slide, voters in slides:
        for model in models:
            asked = AskedBag([slide.table], [voters[model]], POSITIVE)
            for name, way in WAYS.items():
                results.setdefault(f"{model}: {name}", []).append(found(slide, way(slide, asked)))
    return results


def summary(results: Mapping[str, list[FoundSlide]]) -> dict[str, Any]:
    """Of each line its mean sensitivity with an interval, those at the rates, and the paired difference to the same
    model's attention."""
    generator = np.random.default_rng(2021)
    num = len(next(iter(results.values())))
    draws = generator.integers(0, num, (DRAWS, num))
    means: dict[str, np.ndarray] = {}
    for name, slides in results.items():
        chosen = [[slides[index] for index in draw] for draw in draws]
        means[name] = np.array([froc(each).mean for each in chosen if any(slide.num_foci for slide in each)])
    document: dict[str, Any] = {}
    for name, slides in results.items():
        measured = froc(slides)
        gap = means[name] - means[f"{name.partition(':')[0]}: attention"]
        document[name] = {
            "froc": round(measured.mean, 3),
            "interval": [round(float(each), 3) for each in np.quantile(means[name], (0.025, 0.975))],
            "minus_attention": [round(float(each), 3) for each in (gap.mean(), *np.quantile(gap, (0.025, 0.975)))],
            "at": [round(float(each), 3) for each in measured.sensitivity],
        }
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", default="plain,mhim")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bags", type=int, default=30, help="test bags of each kind and seed")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    models = arguments.models.split(",")
    if (arguments.demo is None) == (arguments.data is None):
        parser.error("give --demo or --data")
    if arguments.demo is not None:
        slides = list(demo_slides(arguments.demo))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            slides = list(planted_slides(arguments.data, arguments.seeds, arguments.bags, Path(scratch)))
    print(f"{len(slides)} slides, {sum(len(slide.shares) for slide, _ in slides)} foci")
    document = summary(judged(slides, models))
    for name, line in document.items():
        print(f"{name:<46} {line['froc']:.3f} {line['interval']} {line['minus_attention']} at 1/4 … 8: {line['at']}")
    text = json.dumps(document)
    if arguments.out is not None:
        arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
