"""What hours, bytes and requests cost. Standard library only: the command line reads this."""

from dataclasses import dataclass

from mhim_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What is paid, in one currency; 0: not counted."""

    price_gpu_hour: float = 0.0
    """Price of an hour of the device that encodes: a GPU, or a core where the encoder runs on the CPU."""
    price_cpu_hour: float = 0.0
    """Price of an hour of a core that decodes."""
    price_gb_month: float = 0.0
    """Price of a GB of features for a month."""
    price_1000_reads: float = 0.0
    """Price of 1,000 GET or HEAD requests."""
    price_1000_writes: float = 0.0
    """Price of 1,000 PUT requests."""

    def __post_init__(self) -> None:
        for name in ("price_gpu_hour", "price_cpu_hour", "price_gb_month", "price_1000_reads", "price_1000_writes"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 0")
