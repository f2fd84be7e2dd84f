"""The winner of a sweep: chosen on validation, and only then, for it alone, looked at on the test bags."""

from dataclasses import dataclass, field
from typing import Any

from flows.runs.evaluation import ensure_evaluated
from flows.runs.fits import model_names
from flows.runs.folder import Run
from mhim_core.metrics import METRICS, Estimate
from mhim_core.task import TaskKind
from mhim_core.train.leaderboard import LOSS, LeaderboardRow
from mhim_core.train.sweep_grid import say
from mhim_core.train.sweep_plan import TrialStatus

WINNER = "winner.json"
HEADLINE = {TaskKind.classification: "auroc", TaskKind.survival: "harrell_c", TaskKind.regression: "mae"}
"""The test metric that is printed; the file has all."""


@dataclass(frozen=True, kw_only=True)
class Winner:
    """What `winner.json` holds."""

    configuration: str
    run: str
    """Its folder below the sweep."""
    setting: dict[str, str]
    sentence: str
    """How it was chosen, for whoever quotes its figures."""
    validation: Estimate
    """Of the metric by which it was chosen: too high by what choosing the best of many gains."""
    metric_name: str
    num_configurations: int
    test: dict[str, Any] = field(default_factory=dict)
    """Of its reported model, pooled and over_folds as in its own evaluation/metrics.json; empty: no test part."""
    test_reason: str = ""
    """Why there is no test part."""

    def headline(self, kind: TaskKind) -> dict[str, Any] | None:
        """The estimate that is printed; None: there is none."""
        estimate: dict[str, Any] | None = self.test.get("pooled", {}).get(HEADLINE[kind])
        return estimate


def judge(row: LeaderboardRow, rows: list[LeaderboardRow], metric_name: str, run: Run, folder: str) -> Winner:
    """Evaluate the winner's run on its test bags, unless that is done already. `folder`: its place in the sweep."""
    test: dict[str, Any] = {}
    reason = ""
    if any(split.test for split in run.splits):
        model = ensure_evaluated(run)["models"][model_names(run)[0]]
        test = {"pooled": model["pooled"], "over_folds": model["over_folds"]}
    else:
        reason = "no patient is held out (scheme=final)"
    return Winner(
        configuration=row.outcome.name,
        run=folder,
        setting={key: say(value) for key, value in row.setting.items()},
        sentence=sentence(rows, metric_name, model_names(run)[0] if test else "", run.method),
        validation=row.validation,
        metric_name=metric_name,
        num_configurations=len(rows),
        test=test,
        test_reason=reason,
    )


def say_configurations(number: int) -> str:
    """For people."""
    return f"{number} configuration{'' if number == 1 else 's'}"


def sentence(rows: list[LeaderboardRow], metric_name: str, tested: str, compared: str) -> str:
    """How the winner was chosen. `tested`, `compared`: the names of the models that the test figures and the validation
    figures are of; no test figures: empty."""
    counts = {status: sum(row.outcome.status is status for row in rows) for status in TrialStatus}
    others = ", ".join(
        f"{counts[status]} {status}" for status in (TrialStatus.cut, TrialStatus.failed) if counts[status]
    )
    criterion = "loss" if metric_name == LOSS else f"{METRICS[metric_name].title} (where it ties, the lower loss)"
    among = f"{say_configurations(len(rows))}{f' ({others})' if others else ''}"
    chosen = f"Selected among {among} by the mean validation "
    if not tested:
        return f"{chosen}{criterion}; there are no test figures."
    once = "the test figures were computed once, at the end, for this configuration alone"
    if tested != compared:
        return f"{chosen}{criterion} of its model {compared}; {once}, and are of its model {tested}."
    return f"{chosen}{criterion}; {once}."
