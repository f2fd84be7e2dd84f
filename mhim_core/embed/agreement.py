"""Whether features computed in another way are those of torch in float32: tiles to try it on, and bounds."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float32, UInt8
from torch import Tensor

from mhim_core.embed.card import BFLOAT16, FLOAT16, FLOAT32, EncoderCard
from mhim_core.errors import EncoderError


class Agreement(NamedTuple):
    """How far features are from those of torch in float32, at the worst of the trial tiles."""

    relative_error: float
    """‖difference‖ / ‖feature‖."""
    cosine: float


BOUNDS = {FLOAT32: Agreement(1e-3, 0.9999), FLOAT16: Agreement(0.02, 0.9998), BFLOAT16: Agreement(0.1, 0.995)}
"""By precision what is let pass on the trial tiles. Measured with two networks: 3e-6 in float32; in bfloat16, whose 8
bits every layer rounds to, 0.045 and 0.9991 (on 25 real tiles at worst 0.11 and 0.994). float16 has three bits more."""
_NUM_TRIAL_TILES, _TRIAL_TILE_PX = 4, 256


def check_agreement(
    card: EncoderCard,
    how: str,
    found: Iterable[Float32[Tensor, "b d"]],
    expected: Iterable[Float32[Tensor, "b d"]],
) -> None:
    """Raises EncoderError unless batches of features, computed `how`, are those expected but for the precision."""
    measured, bound = agreement(found, expected), BOUNDS[card.precision]
    if not (measured.relative_error <= bound.relative_error and measured.cosine >= bound.cosine):
        raise EncoderError(
            f"encoder {card.id} {how} ({card.precision}) is not the same network: features are off by "
            f"{measured.relative_error:.1e} of their length (at most {bound.relative_error:g}), cosine "
            f"{measured.cosine:.6f} (at least {bound.cosine:g}); set encoder_runtime=torch"
        )


def agreement(found: Iterable[Float32[Tensor, "b d"]], expected: Iterable[Float32[Tensor, "b d"]]) -> Agreement:
    """Of batches of features with those that they should be; NaN where a feature is."""
    found_Nd, expected_Nd = torch.cat(list(found)).double(), torch.cat(list(expected)).double()
    relative_N = (found_Nd - expected_Nd).norm(dim=1) / expected_Nd.norm(dim=1)
    return Agreement(float(relative_N.max()), float(F.cosine_similarity(found_Nd, expected_Nd).min()))


def trial_tiles(num_tiles: int = _NUM_TRIAL_TILES) -> UInt8[Tensor, "b h w 3"]:
    """Tiles that look like H&E: pink ground of changing density, fibres, and purple nuclei. The same everywhere."""
    generator = torch.Generator().manual_seed(0)

    def smooth(cells: int) -> Tensor:
        noise = torch.rand(num_tiles, 1, cells, cells, generator=generator)
        return F.interpolate(noise, size=_TRIAL_TILE_PX, mode="bicubic", align_corners=False).squeeze(1)

    eosin = 0.05 + 0.3 * smooth(5) + 0.15 * smooth(40)
    nuclei = ((smooth(32) - 0.62) * 12).clamp(0, 1) * (0.5 + 0.5 * smooth(90))
    eosin_od, haematoxylin_od = torch.tensor([0.07, 0.99, 0.11]), torch.tensor([0.65, 0.70, 0.29])
    od = eosin[..., None] * eosin_od + 0.8 * nuclei[..., None] * haematoxylin_od
    grain = 6 * (torch.rand(*od.shape, generator=generator) - 0.5)
    return (245 * torch.pow(10.0, -od) + grain).clamp(0, 255).to(torch.uint8)
