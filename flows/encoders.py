"""mhim encoders [<name>]: the encoders that `encoder=` takes, what they cost and need, and whether they are here.

Inputs: none but this machine's cache of the hub. Outputs: lines on the terminal. Cost: half a second; no torch, no
network. Exit code: 0, 2 (a name that is unknown).
"""

from flows.config.encoders import EncodersConfig
from flows.engine.result import FlowResult
from mhim_core.embed.listing import detail_lines, table_lines


def run(config: EncodersConfig) -> FlowResult:
    """Raises EncoderError (2) if the name is unknown."""
    lines = list(detail_lines(config.name) if config.name else table_lines())
    print("\n".join(lines))
    if not config.name:
        print("\nmhim encoders <name> says how to get one. here: in this machine's cache of the hub, or installed.")
    return FlowResult(recomputed=False)
