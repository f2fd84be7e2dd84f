"""Reusable pieces of made-up tissue: smooth noise, fibres, nuclei and glands, drawn once per process.

All of it is stain density (0 none, about 1 strong), float32, from fixed seeds: the same on every call and in any order.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

_FIBRE_PX = 512
_NUM_SPRITES = 48


class NucleusKind(NamedTuple):
    """One population of nuclei; radii in pixels at 0.5 µm/px."""

    radius_px: float
    spread: float
    """Relative standard deviation of the size."""
    elongation: float
    darkness: float
    """Mean haematoxylin density."""
    roughness: float
    """Irregularity of outline and chromatin."""
    seed: int


FIBROBLAST = NucleusKind(4.4, 0.2, 2.6, 0.75, 0.08, 1)
LYMPHOCYTE = NucleusKind(6.0, 0.08, 1.1, 1.05, 0.06, 2)
EPITHELIAL = NucleusKind(6.4, 0.1, 1.5, 0.75, 0.08, 3)
LOUD_TUMOUR = NucleusKind(10.5, 0.32, 1.3, 0.95, 0.25, 4)
QUIET_TUMOUR = NucleusKind(8.0, 0.18, 1.25, 0.74, 0.12, 5)


class Gland(NamedTuple):
    """A crypt in cross-section: densities to blend in where `opacity` is 1."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    opacity: np.ndarray


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> np.ndarray:
    """Gaussian noise of that correlation length, mean 0 and standard deviation 1."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma_px, mode="nearest")
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def enlarged(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A coarse field at full size, bilinear."""
    picture = Image.fromarray(field.astype(np.float32))
    return np.array(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


@cache
def fibres() -> np.ndarray:
    """Collagen: (4, 512, 512) seamless textures, 0 to 1, wavy strands along 0, 45, 90 and 135 degrees."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[0:_FIBRE_PX, 0:_FIBRE_PX].astype(np.float32)
    frequency = np.fft.fftfreq(_FIBRE_PX)
    fy, fx = frequency[:, None], np.fft.rfftfreq(_FIBRE_PX)[None, :]
    textures = []
    for angle in np.deg2rad([0, 45, 90, 135]):
        along = fx * np.cos(angle) + fy * np.sin(angle)
        across = -fx * np.sin(angle) + fy * np.cos(angle)
        spectrum = np.fft.rfft2(rng.standard_normal((_FIBRE_PX, _FIBRE_PX)))
        thick, thin = (along * 70) ** 2 + (across * 6) ** 2, (along * 25) ** 2 + (across * 2.5) ** 2
        strands = np.exp(-thick) + 0.5 * np.exp(-thin)
        texture = np.fft.irfft2(spectrum * strands, s=(_FIBRE_PX, _FIBRE_PX))
        wave = 9 * _periodic_noise(rng, 26) + 4 * _periodic_noise(rng, 11)
        # moved across their own direction, straight strands become wavy ones
        bent = (y + wave * np.cos(angle), x - wave * np.sin(angle))
        texture = map_coordinates(texture, bent, order=1, mode="grid-wrap")
        textures.append(np.clip(0.5 + 0.25 * texture / texture.std(), 0, 1))
    return np.stack(textures).astype(np.float32)


def _periodic_noise(rng: np.random.Generator, sigma_px: float) -> np.ndarray:
    """Seamless noise of that correlation length, standard deviation 1."""
    noise = gaussian_filter(rng.standard_normal((_FIBRE_PX, _FIBRE_PX)), sigma_px, mode="wrap")
    return np.asarray(noise / noise.std())


@cache
def nuclei(kind: NucleusKind) -> tuple[np.ndarray, ...]:
    """Sprites of haematoxylin density, odd-sided squares, each of its own size, turn and chromatin."""
    rng = np.random.default_rng([12, kind.seed])
    return tuple(_nucleus(kind, rng) for _ in range(_NUM_SPRITES))


def _nucleus(kind: NucleusKind, rng: np.random.Generator) -> np.ndarray:
    radius = kind.radius_px * float(np.clip(1 + kind.spread * rng.standard_normal(), 0.55, 1.9))
    half = int(np.ceil(radius * kind.elongation * 1.2)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    angle = np.arctan2(v, u)
    outline = 1 + kind.roughness * sum(
        rng.uniform(0.2, 0.7) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)) for wave in (2, 3, 4)
    )
    distance = np.hypot(u / kind.elongation, v) / (radius * outline)
    inside = np.clip((1 - distance) * radius / 1.6 + 0.5, 0, 1)
    chromatin = 1 + (0.10 + kind.roughness) * smooth_noise(rng, inside.shape, 1.3)
    rim = 1 + (0.15 + 0.8 * kind.roughness) * np.clip(distance, 0, 1) ** 4  # open chromatin has a dark membrane
    darkness = kind.darkness * float(np.clip(1 + 1.2 * kind.roughness * rng.standard_normal(), 0.6, 1.7))
    return np.asarray(inside * np.clip(darkness * chromatin * rim, 0.1, 1.9), np.float32)


@cache
def glands() -> tuple[Gland, ...]:
    """Crypts of 20 to 36 µm radius: a pale lumen, a ring of cytoplasm, nuclei along its base."""
    rng = np.random.default_rng(13)
    return tuple(_gland(rng) for _ in range(24))


def _gland(rng: np.random.Generator) -> Gland:
    radius = rng.uniform(40, 72)
    half = int(radius * 1.3) + 4
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angle = np.arctan2(y, x)
    outline = 1 + sum(
        rng.uniform(0.02, 0.16 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)) for wave in (2, 3, 5)
    )
    distance = np.hypot(x, y) / (radius * outline)
    lumen = rng.uniform(0.22, 0.42)
    opacity = np.clip((1.04 - distance) * radius / 2 + 0.5, 0, 1)
    cytoplasm = np.clip((distance - lumen) * radius / 3, 0, 1)
    goblet = np.clip(smooth_noise(rng, distance.shape, 5) - 0.3, 0, 1)  # mucin: pale vacuoles
    eosin = cytoplasm * (0.42 - 0.28 * goblet) + 0.02
    haematoxylin = cytoplasm * (0.16 - 0.08 * goblet)
    steps = np.arange(0, 2 * np.pi, 13.5 / (0.84 * radius))
    for turn in steps + rng.normal(0, 0.05, len(steps)):
        at = 0.84 * radius * (1 + 0.06 * rng.standard_normal()) * np.interp(turn - np.pi, angle[half], outline[half])
        stamp(haematoxylin, pick(nuclei(EPITHELIAL), rng), half + at * np.cos(turn), half + at * np.sin(turn))
    return Gland(np.asarray(haematoxylin, np.float32), np.asarray(eosin, np.float32), np.asarray(opacity, np.float32))


def pick(sprites: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray:
    """One sprite at random, flipped at random: eight looks of each."""
    sprite = sprites[int(rng.integers(len(sprites)))]
    turns = int(rng.integers(4))
    return np.rot90(sprite, turns)


def stamp(canvas: np.ndarray, sprite: np.ndarray, x: float, y: float) -> None:
    """Draw a sprite centred at (x, y), the denser of both winning; what falls outside is cut."""
    half = sprite.shape[0] // 2
    top, left = int(y) - half, int(x) - half
    view = canvas[max(0, top) : top + sprite.shape[0], max(0, left) : left + sprite.shape[1]]
    if view.size and top + sprite.shape[0] > 0 and left + sprite.shape[1] > 0:
        piece = sprite[max(0, -top) :, max(0, -left) :][: view.shape[0], : view.shape[1]]
        np.maximum(view, piece, out=view)
