"""The keys of `mhim encoders`. Light: `--help` reads this file."""

from dataclasses import dataclass, field

from flows.config.roles import Role, role


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """mhim encoders: the encoders that encoder= takes, or everything about one."""

    name: str = field(default="", metadata=role(Role.identity))
    """One of them, such as uni2-h; empty: a table of all."""
