"""What a flow returns: its exit code and the places of its outputs, so that one flow can call another."""

from dataclasses import dataclass, field

from mhim_core.types import ExitCode


@dataclass(frozen=True, kw_only=True)
class FlowResult:
    """What a flow's `run(config)` returns."""

    exit_code: ExitCode = ExitCode.OK
    outputs: dict[str, str] = field(default_factory=dict)
    """Name → place, for people and for the next flow."""
    recomputed: bool = True
    """False: everything had been done before."""
