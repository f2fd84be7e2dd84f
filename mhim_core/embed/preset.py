"""A published encoder by name: where its weights are, how its network is built, and on whose word. No torch.

Each file of `presets/` lists encoders of one publisher as `PRESETS`; being there is being registered. A name means one
vector: where the publishers name two for the same weights (class token, or class token and mean of the patch tokens),
there are two names.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from typing import Any

from mhim_core.embed import presets
from mhim_core.errors import EncoderError

TOKEN = "token"
"""Pooling: the class token after the last norm."""
TOKEN_AND_MEAN = "token+mean"
"""Pooling: the class token, then the mean of the patch tokens (register tokens left out), after the last norm."""
POOLINGS = (TOKEN, TOKEN_AND_MEAN)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of values scaled to 0–1."""
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

SWIGLU_PACKED = "swiglu_packed"
"""`mlp_layer`: timm's SwiGLUPacked."""
SILU = "silu"
"""`act_layer`: torch's SiLU."""

BICUBIC, BICUBIC_ANTIALIASED = "bicubic", "bicubic-antialiased"
"""`position_grid`: how the publisher's code fits a grid of position embeddings to another number of patches."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published encoder. What goes into its card is fixed for good: other numbers would be another encoder."""

    name: str
    """What `encoder=` takes: lower case, stable."""
    title: str
    """The publisher's name of it."""
    repo: str
    """The hub's repository of the weights."""
    revision: str = ""
    """A commit of it that was seen in public; empty: none is known to us, and the newest is resolved (the card keeps
    it)."""
    timm_model: str
    args: dict[str, Any]
    """Arguments of the architecture in timm, JSON types. `dynamic_img_size` is left out: at the size that the network
    is built for, which tiles always have, it changes nothing."""
    pooling: str = TOKEN
    dim: int
    num_params: int
    """Of the network without a classifier, counted."""
    gflops: float
    """Of one tile, two per multiplication with addition, counted."""
    norm: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    interpolation: str = "bicubic"
    input_px: int = 224
    resize_px: int = 0
    """Tiles are resized to this, then their centre is cut out; 0: they are resized to input_px whole."""
    position_grid: str = ""
    """How position embeddings of another grid than the network's are fitted; empty: they are refused."""
    tile_px: int
    """The tile that the publisher encodes, at `mpps[0]`."""
    mpps: tuple[float, ...]
    """µm/px that it was trained at; the first is the usual one."""
    mpp_basis: str
    """`stated`: the publisher prints µm/px; `magnification`: a magnification, read as µm/px by convention;
    `convention`: neither."""
    licence: str
    """Of the weights, as their source states it."""
    terms: str = ""
    """What else a user must know of them, a sentence."""
    gated: bool
    """Whether the hub asks for an account that has accepted the terms."""
    sources: tuple[str, ...]
    """Where these facts are from."""

    def __post_init__(self) -> None:
        assert self.pooling in POOLINGS, self.name
        assert self.position_grid in ("", BICUBIC, BICUBIC_ANTIALIASED), self.name

    @property
    def page(self) -> str:
        """The address of the weights, where their terms are accepted."""
        return f"https://huggingface.co/{self.repo}"

    def network(self) -> dict[str, Any]:
        """As a card states it."""
        facts = {"timm_model": self.timm_model, "args": dict(self.args), "layout": "channels_last"}
        return facts | ({"position_grid": self.position_grid} if self.position_grid else {})

    def transform(self) -> dict[str, Any]:
        """As a card states it."""
        mean, std = self.norm
        facts: dict[str, Any] = {
            "input_px": self.input_px,
            "interpolation": self.interpolation,
            "antialias": True,
            "crop": "none",
            "mean": list(mean),
            "std": list(std),
        }
        return facts | ({"crop": "center", "resize_px": self.resize_px} if self.resize_px else {})


@cache
def all_presets() -> dict[str, Preset]:
    """Every preset by name, by file and place."""
    found: dict[str, Preset] = {}
    for module in sorted(pkgutil.iter_modules(presets.__path__), key=lambda module: module.name):
        for preset in importlib.import_module(f"{presets.__name__}.{module.name}").PRESETS:
            assert preset.name not in found, preset.name
            found[preset.name] = preset
    return found


def preset_of(name: str) -> Preset | None:
    """The preset of a name, if it is one."""
    return all_presets().get(name)


def scale_warning(name: str, target_mpp: float) -> str:
    """A sentence where tiles are not cut at a µm/px that the encoder was trained at; empty: nothing to say."""
    preset = preset_of(name)
    if preset is None or any(abs(mpp - target_mpp) <= 0.05 * mpp for mpp in preset.mpps):
        return ""
    trained = ", ".join(f"{mpp:g}" for mpp in preset.mpps)
    return (
        f"target_mpp={target_mpp:g}: {preset.title} was trained on tiles of {trained} µm/px, and says nothing of its "
        f"features at another scale; target_mpp={preset.mpps[0]:g} is what it was made for"
    )


def require_preset(name: str) -> Preset:
    """Raises EncoderError if the name is no preset's."""
    preset = preset_of(name)
    if preset is None:
        raise EncoderError(f"encoder {name!r} is no published encoder that this version knows")
    return preset
