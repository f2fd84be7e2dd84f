"""What a batch of tiles takes in memory, known before any work from the tiles' side and the encoder's batch."""

from collections.abc import Sequence

from mhim_core.embed.card import RUNTIME_CUDA, EncoderCard
from mhim_core.errors import ConfigError

_VALUES_PER_PX = 3
_BYTES_PER_VALUE = 5
"""uint8 as decoded, float32 as the network takes it; what the network makes of it comes on top."""
_BYTES_PER_VALUE_BESIDE_GPU = 2
"""On the machine: uint8 as decoded, and once more joined; float32 is on the GPU."""


def batch_bytes(card: EncoderCard, tile_px: int) -> int:
    """The least that one batch of tiles takes in the machine's memory while it is encoded."""
    per_value = _BYTES_PER_VALUE_BESIDE_GPU if card.runtime == RUNTIME_CUDA else _BYTES_PER_VALUE
    return card.batch_size * tile_px**2 * _VALUES_PER_PX * per_value


def batches_bytes(cards: Sequence[EncoderCard], tile_px: int) -> int:
    """The least that a batch of tiles for each encoder takes: all of them wait as bytes, one at a time is encoded."""
    waiting = [card.batch_size * tile_px**2 * _VALUES_PER_PX for card in cards]
    working = max(batch_bytes(card, tile_px) - own for card, own in zip(cards, waiting, strict=True))
    return sum(waiting) + working


def check_batch(cards: Sequence[EncoderCard], tile_px: int, num_actors: int, memory_bytes: int) -> None:
    """Raises ConfigError where a batch of tiles for each encoder, in each of so many actors that have all of these
    encoders, cannot fit into a machine's memory."""
    needed = batches_bytes(cards, tile_px)
    if num_actors * needed <= memory_bytes:
        return
    fitting = memory_bytes // needed
    remedy = f", or embed_actors={fitting}" if fitting else ""
    remedy += ", or fewer encoders at once" if len(cards) > 1 else ""
    batch_sizes = " and ".join(str(card.batch_size) for card in cards)
    raise ConfigError(
        f"tile_px={tile_px}: a batch of {batch_sizes} tiles takes {needed / 1e9:.1f} GB in each of {num_actors} "
        f"encoder actors, and the machine has {memory_bytes / 1e9:.1f} GB; set a smaller tile_px{remedy}"
    )
