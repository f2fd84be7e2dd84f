"""May a challenger take the champion's place? Every check is made and listed, whatever the others say.

A check that fails refuses the challenger. A check that could not be made (`passed` None) is listed with its reason and
refuses nothing: a site with too few patients or without a metric, the Brier score of a task without classes. What the
whole holdout cannot say is another matter: a metric without a value there refuses.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import Rows
from mhim_core.evaluation.row_metrics import metrics_of
from mhim_core.registry.checks import (
    Check,
    check_champion,
    check_finite,
    check_holdout,
    check_identity,
    check_never_miss,
    check_not_withdrawn,
    check_predicted,
)
from mhim_core.registry.figures import Contender, Figures, is_finite, site_of
from mhim_core.registry.gate_options import GateOptions
from mhim_core.registry.holdout import Holdout
from mhim_core.task import TaskKind

DEFAULT_METRIC = {
    TaskKind.classification: "auroc",
    TaskKind.survival: "harrell_c",
    TaskKind.regression: "rmse",
}
_NOT_COMPARED = "the predictions cannot be compared (see the checks above)"


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
        return {"promote": self.promote, "checks": [check._asdict() for check in self.checks], "figures": self.figures}


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

    `holdout_changes`: what `holdout.check_unchanged` found. `never_miss_rows`: the challenger's predictions of bags
    of the never-miss list that are not in the holdout. `withdrawn`: `promotions.withdrawn` of the history. The same
    arguments give the same decision. Raises InputError for a metric that the task does not have.
    """
    metric = _metric(challenger, options)
    checks = [
        *(() if champion is None else check_identity(champion, challenger, options)),
        check_not_withdrawn(challenger, withdrawn),
        *check_holdout(challenger, holdout, holdout_changes),
        *(() if champion is None else check_champion(champion, holdout)),
        check_predicted(champion, challenger, holdout),
        check_finite(champion, challenger),
    ]
    comparable = all(check.passed for check in checks[-2:]) and _of_one_kind(champion, challenger)
    figures = _figures(champion, challenger, options) if comparable else None
    sites = _site_figures(champion, challenger, options) if comparable else {}
    if champion is None:
        checks.append(_floor(figures, metric, options))
    else:
        checks += [_non_inferior(figures, metric, options), *_sites(sites, metric, options)]
        checks.append(_brier(figures, options, challenger.card.task.kind))
    checks.append(check_never_miss(challenger, (*challenger.rows, *never_miss_rows), options))
    record = {} if figures is None else figures.to_dict(metric)
    if sites:
        record["sites"] = {site: of_site.to_dict(metric) for site, of_site in sites.items()}
    return GateDecision(all(check.passed is not False for check in checks), tuple(checks), record)


def figures_alone(challenger: Contender, options: GateOptions) -> dict[str, Any]:
    """The challenger's own figures on the holdout, for its card: plain JSON; empty where a prediction is no number."""
    metric = _metric(challenger, options)
    if not challenger.rows or not is_finite(challenger.rows):
        return {}
    return Figures({"challenger": challenger}, options).to_dict(metric)


def _metric(challenger: Contender, options: GateOptions) -> str:
    kind = challenger.card.task.kind
    known = [name for name in metrics_of(kind) if name != "uno_c"]
    metric = options.gate_metric or DEFAULT_METRIC[kind]
    if metric not in known:
        raise InputError(f"gate_metric={metric} is none of a {kind}: {', '.join(known)}")
    return metric


def _figures(champion: Contender | None, challenger: Contender, options: GateOptions) -> Figures:
    return Figures(({} if champion is None else {"champion": champion}) | {"challenger": challenger}, options)


def _site_figures(champion: Contender | None, challenger: Contender, options: GateOptions) -> dict[str, Figures]:
    sites = sorted({row.site for row in challenger.rows if row.site})
    if len(sites) < 2 and all(row.site for row in challenger.rows):
        return {}  # one site is the whole
    return {
        site: _figures(None if champion is None else site_of(champion, site), site_of(challenger, site), options)
        for site in sites
    }


def _floor(figures: Figures | None, metric: str, options: GateOptions) -> Check:
    limit = options.gate_floor
    if figures is None:
        return Check("floor", False, None, limit, _NOT_COMPARED)
    definition = metrics_of(figures.kind)[metric]
    estimate = figures.estimate("challenger", metric)
    if estimate.value is None:
        return Check("floor", False, None, limit, f"{definition.title} has no value on the holdout: {estimate.reason}")
    passed = estimate.value >= limit if definition.higher_is_better else estimate.value <= limit
    word = "at least" if definition.higher_is_better else "at most"
    reason = f"{definition.title} {estimate.value:.4g} on the holdout; {word} {limit:g} is asked for"
    return Check("floor", passed, estimate.value, limit, reason)


def _non_inferior(figures: Figures | None, metric: str, options: GateOptions, where: str = "") -> Check:
    """The lower bound of the gain must not lie below −δ."""
    name, limit = f"non_inferior{where and '/'}{where}", -(options.site_delta if where else options.gate_delta)
    if figures is None:
        return Check(name, False, None, limit, _NOT_COMPARED)
    title = metrics_of(figures.kind)[metric].title
    gain = figures.gain(metric)
    if gain.value is None or gain.low is None or gain.high is None:
        reason = gain.reason or "no replicate of the bootstrap gave a value"
        return Check(name, None if where else False, None, limit, f"{title} has no value here: {reason}")
    reason = (
        f"{title} better by {gain.value:.4g}, interval [{gain.low:.4g}, {gain.high:.4g}] of {figures.num_patients} "
        f"patients; its lower bound must not lie below {limit:g}"
    )
    return Check(name, gain.low >= limit, gain.low, limit, reason)


def _sites(sites: dict[str, Figures], metric: str, options: GateOptions) -> Iterator[Check]:
    least = options.gate_site_patients
    for site, figures in sites.items():
        if figures.num_patients < least:
            reason = f"{figures.num_patients} holdout patients, and {least} are needed to judge a site by itself"
            yield Check(f"non_inferior/{site}", None, None, -options.site_delta, reason)
        else:
            yield _non_inferior(figures, metric, options, site)


def _brier(figures: Figures | None, options: GateOptions, kind: TaskKind) -> Check:
    """Of the mean probabilities as they are, before any temperature."""
    if kind is not TaskKind.classification:
        return Check("brier", None, None, None, f"a {kind} has no class probabilities")
    if figures is None:
        return Check("brier", False, None, None, _NOT_COMPARED)
    before, after = (figures.estimate(role, "brier").value for role in ("champion", "challenger"))
    if before is None or after is None:
        return Check("brier", False, after, None, "the Brier score has no value on the holdout")
    limit = before + options.gate_brier_epsilon
    reason = f"Brier score {after:.4g}, the champion's {before:.4g}; at most {limit:.4g} is allowed"
    return Check("brier", after <= limit, after, limit, reason)


def _of_one_kind(champion: Contender | None, challenger: Contender) -> bool:
    return champion is None or champion.card.task.kind is challenger.card.task.kind
