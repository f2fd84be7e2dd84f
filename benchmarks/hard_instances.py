"""Does masking find the instances that plain attention overlooks? Synthetic bags of known truth.

    python benchmarks/hard_instances.py [--seeds 10] [--jobs 2] [--aggregator abmil] [--out DIR] [--sweep]

Positive bags hold a few salient instances (far along one direction) and some subtle ones (a little along another). A
plain aggregator learns the salient ones alone and misses bags that have only subtle ones; MHIM hides what is salient.

The MHIM student is compared with its stage-1 baseline, a baseline trained for the epochs of both stages, and random
masking alone, all under plain inference on all instances. Random masking alone hides a share of the instances, anew in
every step, and does nothing else; of four shares the one with the best mean AUROC over the seeds competes, which
favours it.
Differences are paired by seed, with their 95 % t-interval over seeds. The last line is one JSON object.

With --out, finished fits are kept, and an interrupted command goes on where it stopped. --sweep prints a table of
options, aggregators and regimes instead. On one core about 80 s a seed; the sweep about 8 minutes a seed.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from hard_bags import Scores
from hard_fits import BASELINE, Record, Task, fit_variants, read_record
from hard_variants import LONGER, RANDOM, STUDENT, Group, comparison, sweep_groups
from intervals import Interval, paired_interval

Row = list[Record]
"""One variant's records, by seed."""


def fit_groups(groups: Sequence[Group], num_seeds: int, jobs: int, out: Path) -> None:
    """All fits, group by group; in each the baselines first, since they are the teachers."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for group in groups:
            tasks = [
                Task(out, group.regime_name, group.regime, group.aggregator, seed, (variant,))
                for seed in range(min(num_seeds, group.max_seeds))
                for variant in group.variants
            ]
            for stage_one in (True, False):
                list(pool.map(fit_variants, [task for task in tasks if (task.variants == (BASELINE,)) is stage_one]))


def read_rows(group: Group, num_seeds: int, out: Path) -> dict[str, Row]:
    """The finished records of a group, by variant."""
    rows: dict[str, Row] = {}
    for variant in group.variants:
        for seed in range(min(num_seeds, group.max_seeds)):
            record = read_record(Task(out, group.regime_name, group.regime, group.aggregator, seed, ()), variant)
            assert record is not None
            rows.setdefault(variant.name, []).append(record)
    return rows


def column(scores: Sequence[Scores], name: str) -> list[float]:
    return [getattr(score, name) for score in scores]


def line(name: str, scores: Sequence[Scores], baseline: Sequence[Scores]) -> str:
    """A row of a table: means, and differences from the baseline where it is not the baseline itself."""
    means = " ".join(f"{statistics.fmean(column(scores, key)):7.3f}" for key in Scores._fields)
    if scores is baseline:
        return f"{name:38} {means}"
    deltas = " ".join(str(paired_interval(column(scores, key), column(baseline, key))) for key in Scores._fields[:2])
    return f"{name:38} {means}   {deltas}"


def print_table(group: Group, rows: dict[str, Row], *, every_model: bool) -> None:
    """Students under plain inference; `every_model`: beside them teachers, and students with recycled tokens."""
    num_seeds = len(rows[BASELINE.name])
    print(f"\n{group.name} ({num_seeds} seeds)")
    print(f"{'':38} {'all':>7} {'subtle':>7} {'salient':>7} {'top-10':>7}   difference in all, in subtle [95 %]")
    baseline = [record.student for record in rows[BASELINE.name]]
    for name, row in rows.items():
        print(line(name, baseline if name == BASELINE.name else [record.student for record in row], baseline))
        recycled = [record.recycled for record in row if record.recycled is not None]
        teacher = [record.teacher for record in row if record.teacher is not None]
        if every_model and recycled:
            print(line(f"{name}, recycle at test", recycled, baseline))
        if every_model and teacher:
            print(line(f"{name}, teacher", teacher, baseline))
    seconds = {name: statistics.fmean(record.seconds for record in row) for name, row in rows.items()}
    print("CPU seconds a fit: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()), flush=True)


def summarise(rows: dict[str, Row]) -> dict[str, object]:
    """The JSON of the default run; AUROC over all positives unless named."""
    students = {name: [record.student for record in row] for name, row in rows.items()}
    random = max((variant.name for variant in RANDOM), key=lambda name: statistics.fmean(column(students[name], "all")))

    def delta(other: str, key: str = "all") -> Interval:
        return paired_interval(column(students[STUDENT.name], key), column(students[other], key))

    print("\nMHIM student minus …                   all                      subtle                   top-10")
    for name in (BASELINE.name, LONGER.name, random):
        print(f"{name:38} " + " ".join(f"{delta(name, key)!s:24}" for key in ("all", "subtle", "top10")))
    mean = {key: round(statistics.fmean(column(students[STUDENT.name], key)), 4) for key in Scores._fields}
    deltas = {
        "delta_all": delta(BASELINE.name),
        "delta_subtle": delta(BASELINE.name, "subtle"),
        "delta_vs_equal_epochs": delta(LONGER.name),
        "delta_vs_random": delta(random),
        "delta_top10": delta(BASELINE.name, "top10"),
    }
    return {
        "seeds": len(rows[STUDENT.name]),
        "auroc_all": mean["all"],
        "auroc_subtle": mean["subtle"],
        "auroc_salient": mean["salient"],
    } | {name: [None if value != value else round(value, 4) for value in delta] for name, delta in deltas.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--aggregator", choices=("abmil", "transmil", "dsmil"), default="abmil")
    parser.add_argument("--out", type=Path, help="keep and reuse finished fits there")
    parser.add_argument("--sweep", action="store_true", help="options, aggregators and regimes instead")
    options = parser.parse_args()
    groups = sweep_groups() if options.sweep else (comparison(options.aggregator),)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        fit_groups(groups, options.seeds, options.jobs, out)
        rows = [read_rows(group, options.seeds, out) for group in groups]
    for group, records in zip(groups, rows, strict=True):
        print_table(group, records, every_model=options.sweep)
    if not options.sweep:
        print(json.dumps(summarise(rows[0])))


if __name__ == "__main__":
    main()
