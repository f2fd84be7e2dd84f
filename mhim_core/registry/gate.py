"""May a challenger take the champion's place? Every check is made and listed, whatever the others say.

A check that fails refuses the challenger. A check that could not be made (`passed` None) is listed with its reason and
refuses nothing: a site with too few patients or without a metric, the Brier score of a task without classes. A metric
without a value on the whole holdout, however, refuses. The checks are in `gate_checks`, a file each.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import Rows
from mhim_core.evaluation.row_metrics import metrics_of
from mhim_core.registry.checks import Subject, checks_of
from mhim_core.registry.contest import Check, Contest
from mhim_core.registry.figures import Contender, Figures, is_finite, site_of
from mhim_core.registry.gate_options import GateOptions
from mhim_core.registry.holdout import Holdout
from mhim_core.task import TaskKind

DEFAULT_METRIC = {
    TaskKind.classification: "auroc",
    TaskKind.survival: "harrell_c",
    TaskKind.regression: "rmse",
}


class GateDecision(NamedTuple):
    """What the gate says, and why."""

    promote: bool
    checks: tuple[Check, ...]
    figures: dict[str, Any]
    """Plain JSON, as `Figures.to_dict`, with {sites: {site: …}}; empty where the predictions cannot be compared."""

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def reason(self) -> str:
        """What failed, or that nothing did, in a sentence or more."""
        if self.promote:
            return f"all {sum(check.passed is True for check in self.checks)} checks passed"
        return "; ".join(f"{check.name}: {check.reason}" for check in self.failed)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        checks = [check.to_dict() for check in self.checks]
        return {"promote": self.promote, "checks": checks, "figures": self.figures}


def judge(
    champion: Contender | None,
    challenger: Contender,
    holdout: Holdout,
    options: GateOptions,
    *,
    holdout_changes: Sequence[str] = (),
    never_miss_rows: Rows = (),
    withdrawn: Collection[str] = (),
) -> GateDecision:
    """Compare a challenger with the champion on the frozen holdout, or a first model (champion None) with the floor.

    `holdout_changes`: from `holdout.check_unchanged`. `never_miss_rows`: the challenger's predictions of bags
    of the never-miss list that are not in the holdout. `withdrawn`: `promotions.withdrawn` of the history. The same
    arguments give the same decision. Raises InputError for a metric that the task does not have.
    """
    contest = Contest(
        champion=champion,
        challenger=challenger,
        holdout=holdout,
        options=options,
        metric=_metric(challenger, options),
        holdout_changes=holdout_changes,
        never_miss_rows=never_miss_rows,
        withdrawn=withdrawn,
    )
    of_models = _made(Subject.models, contest)
    of_predictions = _made(Subject.predictions, contest)
    if all(check.passed for check in of_predictions) and _of_one_kind(contest):
        contest = replace(contest, figures=_figures(contest), figures_by_site=_figures_by_site(contest))
    checks = (*of_models, *of_predictions, *_made(Subject.performance, contest))
    return GateDecision(all(check.passed is not False for check in checks), checks, _record(contest))


def figures_alone(challenger: Contender, options: GateOptions) -> dict[str, Any]:
    """The challenger's own figures on the holdout, for its card: plain JSON; empty where a prediction is no number."""
    metric = _metric(challenger, options)
    if not challenger.rows or not is_finite(challenger.rows):
        return {}
    return Figures({"challenger": challenger}, options).to_dict(metric)


def _made(subject: Subject, contest: Contest) -> tuple[Check, ...]:
    return tuple(check for make in checks_of(subject) for check in make(contest))


def _metric(challenger: Contender, options: GateOptions) -> str:
    kind = challenger.card.task.kind
    known = [name for name in metrics_of(kind) if name != "uno_c"]
    metric = options.gate_metric or DEFAULT_METRIC[kind]
    if metric not in known:
        raise InputError(f"gate_metric={metric} is none of a {kind}: {', '.join(known)}")
    return metric


def _of_one_kind(contest: Contest) -> bool:
    champion, challenger = contest.champion, contest.challenger
    return champion is None or champion.card.task.kind is challenger.card.task.kind


def _figures(contest: Contest, site: str = "") -> Figures:
    contenders = {"champion": contest.champion, "challenger": contest.challenger}
    return Figures(
        {role: site_of(model, site) if site else model for role, model in contenders.items() if model is not None},
        contest.options,
    )


def _figures_by_site(contest: Contest) -> dict[str, Figures]:
    rows = contest.challenger.rows
    sites = sorted({row.site for row in rows if row.site})
    if len(sites) < 2 and all(row.site for row in rows):
        return {}  # one site is the whole
    return {site: _figures(contest, site) for site in sites}


def _record(contest: Contest) -> dict[str, Any]:
    if contest.figures is None:
        return {}
    record = contest.figures.to_dict(contest.metric)
    if contest.figures_by_site:
        sites = contest.figures_by_site.items()
        record["sites"] = {site: figures.to_dict(contest.metric) for site, figures in sites}
    return record
