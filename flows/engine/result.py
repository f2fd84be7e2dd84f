"""What a flow gives back: its exit code and where its outputs lie, so that one flow can call another."""

from dataclasses import dataclass, field

from mhim_core.types import ExitCode


@dataclass(frozen=True, kw_only=True)
class FlowResult:
    exit_code: ExitCode = ExitCode.OK
    outputs: dict[str, str] = field(default_factory=dict)
    """What → where, for people and for the next flow."""
    recomputed: bool = True
    """False: everything was there already."""
