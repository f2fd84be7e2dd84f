"""Stain and texture statistics of an H&E tile: an encoder without weights, which runs anywhere.

A tile is unmixed into haematoxylin, eosin and a residual by colour deconvolution (Ruifrok & Johnston 2001, their
vectors) and described by the stains' distributions, by gradients and bands over four scales, by orientation coherence,
by rotation-invariant local binary patterns (Ojala et al. 2002, riu2) and by the density of dark blobs, nuclei mostly.
Each statistic is centred and scaled by a constant measured once on H&E tiles (`hed_scales`) and clipped to ±8.

It tells tissue kinds apart; it knows no morphology that a trained network knows.

Shapes: b tiles, c channels, s samples.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from mhim_core.embed.card import EncoderCard
from mhim_core.embed.encoder import TorchEncoder
from mhim_core.embed.hed_scales import NETWORK, SCALES
from mhim_core.errors import EncoderError

# optical densities of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001), rows
_STAINS_OD = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LEVELS = 4
"""Scales, each half the resolution of the one before."""
_MIN_TILE_PX = 32
_FLOOR = 1e-3
"""Added before a logarithm: below the quantisation noise of 8 bits."""
_LBP_MARGIN = 0.01
"""Optical density by which a neighbour must exceed the centre to count: flat areas are flat, not noise."""
_NUCLEAR_OD = (0.05, 0.10, 0.20)
_WHITE_OD = 0.06
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
"""Around the centre in order: the number of changes along it tells edges and spots from noise."""
_CLIP = 8.0

H, E, R, O = range(4)  # noqa: E741 - channels of `stains_bchw`: haematoxylin, eosin, residual, mean optical density


def load_hed_texture(card: EncoderCard) -> TorchEncoder:
    """The encoder. Raises EncoderError if the card is of another version of the statistics."""
    if card.network != NETWORK or card.dim != len(SCALES):
        raise EncoderError(f"encoder {card.id}: the card says {card.network}, this version computes {NETWORK}")
    return TorchEncoder(card, HedTexture())


class HedTexture(nn.Module):
    """uint8 tiles → scaled statistics, float32. Raises EncoderError on tiles under 32 px."""

    channels_43: Tensor
    centre_d: Tensor
    scale_d: Tensor

    def __init__(self) -> None:
        super().__init__()
        stains = torch.tensor(_STAINS_OD, dtype=torch.float64)
        stains = stains / stains.norm(dim=1, keepdim=True)
        mean = torch.full((1, 3), 1 / 3, dtype=torch.float64)
        self.register_buffer("channels_43", torch.cat([torch.linalg.inv(stains).T, mean]).float())
        self.register_buffer("centre_d", torch.tensor([centre for _, centre, _ in SCALES]))
        self.register_buffer("scale_d", torch.tensor([scale for _, _, scale in SCALES]))

    def forward(self, tiles: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b d"]:
        values = torch.stack(list(self.statistics(tiles).values()), dim=1)
        return ((values - self.centre_d) / self.scale_d).clamp(-_CLIP, _CLIP)

    def statistics(self, tiles: UInt8[Tensor, "b h w 3"]) -> dict[str, Tensor]:
        """The unscaled statistics by name, each (b,), in the order of the features."""
        if min(tiles.shape[1:3]) < _MIN_TILE_PX:
            raise EncoderError(f"hed-texture needs tiles of {_MIN_TILE_PX} px or more, got {tuple(tiles.shape[1:3])}")
        od_b3hw = -torch.log10(tiles.permute(0, 3, 1, 2).contiguous().float().clamp(min=1.0) / 255.0)
        batch, _, height, width = od_b3hw.shape
        finest = torch.matmul(self.channels_43, od_b3hw.flatten(2)).view(batch, 4, height, width)
        pyramid = [finest]
        for _ in range(_LEVELS):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        statistics = _distributions(pyramid[2])
        statistics |= _colour(od_b3hw, pyramid[1])
        statistics |= _correlations(pyramid[2])
        for level in range(_LEVELS):
            statistics |= _gradients(pyramid[level], level)
            statistics |= _bands(pyramid[level], pyramid[level + 1], level)
        for level in (1, 2):
            statistics |= _patterns(pyramid[level], level)
            statistics |= _blobs(pyramid[level], level)
        return statistics


def _distributions(stains_bchw: Tensor) -> dict[str, Tensor]:
    """Moments and quantiles of each channel."""
    statistics = {}
    sorted_bcs = stains_bchw.flatten(2).sort(dim=2).values
    num_samples = sorted_bcs.shape[2]
    for channel, name in enumerate("hero"):
        samples = sorted_bcs[:, channel]
        mean = samples.mean(1)
        centred = samples - mean[:, None]
        std = centred.square().mean(1).sqrt()
        statistics[f"{name}.mean"] = mean
        statistics[f"{name}.log_std"] = torch.log(std + _FLOOR)
        statistics[f"{name}.skew"] = torch.asinh(centred.pow(3).mean(1) / (std + _FLOOR).pow(3))
        for quantile in _QUANTILES:
            statistics[f"{name}.q{round(100 * quantile):02d}"] = samples[:, round(quantile * (num_samples - 1))]
    return statistics


def _colour(od_b3hw: Tensor, stains_bchw: Tensor) -> dict[str, Tensor]:
    """Raw colour, the empty share, and the shares of dark-blue area at three depths."""
    statistics = {f"od_{name}": od_b3hw[:, channel].mean((1, 2)) for channel, name in enumerate("rgb")}
    statistics["white"] = (stains_bchw[:, O] < _WHITE_OD).float().mean((1, 2))
    for threshold in _NUCLEAR_OD:
        statistics[f"h_over_{threshold:g}"] = (stains_bchw[:, H] > threshold).float().mean((1, 2))
    return statistics


def _correlations(stains_bchw: Tensor) -> dict[str, Tensor]:
    """How the stains correlate over the tile: −1 to 1."""
    centred = stains_bchw - stains_bchw.mean((2, 3), keepdim=True)
    std = centred.square().mean((2, 3)).sqrt() + _FLOOR
    statistics = {}
    for first, second, name in ((H, E, "he"), (E, R, "er"), (H, R, "hr")):
        covariance = (centred[:, first] * centred[:, second]).mean((1, 2))
        statistics[f"corr_{name}"] = covariance / (std[:, first] * std[:, second])
    return statistics


def _gradients(stains_bchw: Tensor, level: int) -> dict[str, Tensor]:
    """Edge strength (mean and spread) of three channels, and how much edges share a direction."""
    statistics = {}
    # over 2×2 pixels, so that noise has no preferred direction and a turned tile the same edges
    right = stains_bchw[:, :, :, 1:] - stains_bchw[:, :, :, :-1]
    down = stains_bchw[:, :, 1:] - stains_bchw[:, :, :-1]
    dx = (right[:, :, 1:] + right[:, :, :-1]) / 2
    dy = (down[:, :, :, 1:] + down[:, :, :, :-1]) / 2
    for channel, name in ((H, "h"), (E, "e"), (O, "o")):
        strength = (dx[:, channel].square() + dy[:, channel].square()).sqrt()
        mean = strength.mean((1, 2))
        spread = (strength - mean[:, None, None]).square().mean((1, 2)).sqrt()
        statistics[f"grad{level}.{name}.log_mean"] = torch.log(mean + _FLOOR)
        statistics[f"grad{level}.{name}.log_spread"] = torch.log(spread + _FLOOR)
    if level > 0:
        tensor = torch.stack(
            [dx[:, O].square() - dy[:, O].square(), 2 * dx[:, O] * dy[:, O], dx[:, O].square() + dy[:, O].square()], 1
        )
        statistics[f"coherence{level}.tile"] = _coherence(tensor.mean((2, 3), keepdim=True)).mean((1, 2))
        window_px = max(2, 16 >> level)
        statistics[f"coherence{level}.local"] = _coherence(F.avg_pool2d(tensor, window_px)).mean((1, 2))
    return statistics


def _coherence(tensor_b3hw: Tensor) -> Tensor:
    """0: edges in every direction; 1: in one. From the structure tensor as (xx − yy, 2·xy, xx + yy)."""
    along, across, energy = tensor_b3hw.unbind(1)
    return (along.square() + across.square()).sqrt() / (energy + 1e-6)


def _bands(fine_bchw: Tensor, coarse_bchw: Tensor, level: int) -> dict[str, Tensor]:
    """Energy between one scale and the next: what averaging two by two pixels takes away."""
    height, width = coarse_bchw.shape[2] * 2, coarse_bchw.shape[3] * 2
    statistics = {}
    for channel, name in ((H, "h"), (O, "o")):
        rough = coarse_bchw[:, channel].repeat_interleave(2, 1).repeat_interleave(2, 2)
        energy = (fine_bchw[:, channel, :height, :width] - rough).square().mean((1, 2)).sqrt()
        statistics[f"band{level}.{name}"] = torch.log(energy + _FLOOR)
    return statistics


def _patterns(stains_bchw: Tensor, level: int) -> dict[str, Tensor]:
    """Shares of the ten rotation-invariant uniform patterns of eight neighbours (riu2), square-rooted."""
    statistics = {}
    for channel, name in ((H, "h"), (O, "o")):
        image = stains_bchw[:, channel]
        height, width = image.shape[1:]
        centre = image[:, 1:-1, 1:-1] + _LBP_MARGIN
        brighter = [
            (image[:, 1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx] > centre).to(torch.int8)
            for dy, dx in _NEIGHBOURS
        ]
        count = torch.zeros_like(brighter[0])
        changes = torch.zeros_like(brighter[0])
        for index, bit in enumerate(brighter):
            count += bit
            changes += bit ^ brighter[index - 1]
        code = torch.where(changes <= 2, count, 9)
        for pattern in range(10):
            share = (code == pattern).float().mean((1, 2))
            statistics[f"lbp{level}.{name}.{pattern}"] = share.sqrt()
    return statistics


def _blobs(stains_bchw: Tensor, level: int) -> dict[str, Tensor]:
    """Local maxima of smoothed haematoxylin per 1,000 px of this scale, and how dark they are."""
    smooth = F.avg_pool2d(stains_bchw[:, H : H + 1], 3, stride=1, padding=1, count_include_pad=False)
    along = F.max_pool2d(smooth, (1, 5), stride=1, padding=(0, 2))  # the 5×5 maximum, one axis after the other
    peak = (smooth == F.max_pool2d(along, (5, 1), stride=1, padding=(2, 0))) & (smooth > _NUCLEAR_OD[1])
    count = peak.float().sum((1, 2, 3))
    num_px = smooth.shape[2] * smooth.shape[3]
    depth = (smooth * peak).sum((1, 2, 3)) / count.clamp(min=1.0)
    return {f"blobs{level}.density": (1000.0 * count / num_px).sqrt(), f"blobs{level}.depth": depth}
