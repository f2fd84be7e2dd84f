"""The options of the holdout and the gate. Standard library and ground only: `--help` reads this."""

from dataclasses import dataclass

from mhim_core.errors import ConfigError

CHANGES = ("data", "seed", "epochs", "thresholds", "fits")
"""Changes that are not a single key of the training: `data` (slides, labels, folds, manifest), `seed` (seed and seeds),
`epochs`, `thresholds` (temperatures too), `fits` (how many models vote). Beside them any key of `mhim train` may be
named."""


@dataclass(frozen=True, kw_only=True)
class HoldoutOptions:
    """How the holdout is frozen; read once, when a name gets its first model."""

    holdout_fraction: float = 0.2
    """Share of the patients, stratified by class, that is set aside permanently when the first model is made, above 0
    and below 1."""
    holdout_seed: int = 2021
    """Seed of the draw of the holdout patients; 0 or more."""

    def __post_init__(self) -> None:
        if not 0 < self.holdout_fraction < 1:
            raise ConfigError(f"holdout_fraction={self.holdout_fraction} must be above 0 and below 1")
        if self.holdout_seed < 0:
            raise ConfigError(f"holdout_seed={self.holdout_seed} must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What a challenger must achieve to replace the champion; part of a judgement's identity."""

    gate_metric: str = ""
    """The metric to compare on the holdout; empty: auroc (survival: harrell_c; regression: rmse)."""
    gate_delta: float = 0.02
    """How much worse the challenger may be, in the unit of the metric, 0 or more: the lower bound of the paired
    interval of the difference must not be below minus this value, overall and in every site. A small holdout needs a
    large value: with 200 patients, the interval of an AUROC is about ±0.1."""
    gate_site_delta: float | None = None
    """The same within a site, where fewer patients give a wider interval, 0 or more; none: gate_delta."""
    gate_brier_epsilon: float = 0.02
    """By how much the challenger's Brier score may exceed the champion's, 0 or more; classification only."""
    gate_floor: float = 0.7
    """What a first model must reach on the holdout, in the metric's own unit (rmse and mae: stay at or below), 0 or
    more."""
    gate_site_patients: int = 10
    """A site with fewer holdout patients than this is listed, but not judged on its own; at least 1."""
    gate_replicates: int = 2000
    """Replicates of the paired, patient-clustered bootstrap, at least 100."""
    gate_level: float = 0.95
    """Confidence level of the two-sided interval, above 0 and below 1."""
    never_miss: tuple[str, ...] = ()
    """Slides (patients with bags=patient) that a challenger must get right at its threshold, separated by commas;
    empty: none."""
    may_change: tuple[str, ...] = CHANGES
    """What may differ between champion and challenger, separated by commas: data, seed, epochs, thresholds, fits, or
    any key of mhim train; everything else must be the same."""

    def __post_init__(self) -> None:
        for name in ("gate_delta", "gate_site_delta", "gate_brier_epsilon", "gate_floor"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name}={value} must be a number, 0 or more")
        if self.gate_replicates < 100:
            raise ConfigError(f"gate_replicates={self.gate_replicates} must be at least 100")
        if self.gate_site_patients < 1:
            raise ConfigError(f"gate_site_patients={self.gate_site_patients} must be at least 1")
        if not 0 < self.gate_level < 1:
            raise ConfigError(f"gate_level={self.gate_level} must be above 0 and below 1")

    @property
    def site_delta(self) -> float:
        return self.gate_delta if self.gate_site_delta is None else self.gate_site_delta
