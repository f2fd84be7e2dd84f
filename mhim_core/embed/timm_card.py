"""Cards of `timm/<model>` encoders, from what a weights file, a folder or the hub states about itself.

timm/resnet50.a1_in1k              the hub's timm/resnet50.a1_in1k, at a pinned commit
timm/<organisation>/<repository>   a timm-style repository of somebody else (its licence may gate it)
either one with weights=           a .safetensors (its metadata is read), .pth, .pt or .bin file, or a folder with
                                   config.json and model.safetensors or pytorch_model.bin: nothing is downloaded
"""

import difflib
from pathlib import Path
from typing import Any, NamedTuple

from mhim_core.embed.card import EncoderCard
from mhim_core.embed.hub import CONFIG_NAME, HUB, WEIGHT_NAMES, fetch
from mhim_core.embed.timm_encoder import feature_dim, import_timm, make_network
from mhim_core.embed.transform import INTERPOLATIONS, transform_facts
from mhim_core.embed.weights import LOCAL, SUFFIXES, read_metadata, weights_sha256
from mhim_core.errors import EncoderError
from mhim_core.records import parse_json
from mhim_core.storage import read_file

PREFIX = "timm/"

_MAX_CONFIG_BYTES = 2**24

# what a file may say about the network it belongs to: the arguments that change its layers or its numbers
_ARGUMENTS: dict[str, type] = {
    "class_token": bool,
    "depth": int,
    "dynamic_img_size": bool,
    "embed_dim": int,
    "global_pool": str,
    "img_size": int,
    "init_values": float,
    "mlp_ratio": float,
    "no_embed_class": bool,
    "num_heads": int,
    "pad_type": str,
    "patch_size": int,
    "qkv_bias": bool,
    "reg_tokens": int,
}


class WeightsSource(NamedTuple):
    """A weights file found, and what is stated about it."""

    path: Path
    stated: dict[str, Any]
    """architecture, args, mean, std, input_px, interpolation, licence, dim: whichever are known."""
    source: str
    revision: str


def timm_card(name: str, weights: str | None, revision: str | None, runtime: dict[str, Any]) -> EncoderCard:
    """The card of `timm/…`. Imports timm. Raises EncoderError with what to do."""
    origin = find_source(name, weights, revision)
    architecture = origin.stated.get("architecture") or _architecture_of(name)
    if _is_plain(name) and architecture != _architecture_of(name):
        raise EncoderError(
            f"encoder {name}: the weights {origin.path.name} belong to {architecture}; set encoder=timm/{architecture}"
        )
    args = origin.stated.get("args", {})
    network = {"timm_model": architecture, "args": args, "layout": "channels_last"}
    model = make_network(name, network, on_meta=True)
    defaults = model.pretrained_cfg
    input_px = origin.stated.get("input_px") or _square(name, defaults["input_size"])
    dim = feature_dim(name, model, input_px)
    if origin.stated.get("dim", dim) not in (dim, model.num_features):
        raise EncoderError(f"encoder {name}: the weights state {origin.stated['dim']} features, the model has {dim}")
    interpolation = origin.stated.get("interpolation", defaults.get("interpolation"))
    return EncoderCard(
        id=name,
        source=origin.source,
        weights_sha256=weights_sha256(origin.path),
        revision=origin.revision,
        licence=origin.stated.get("licence") or "unknown",
        pooling=str(args.get("global_pool") or _pooling(model)),
        network=network,
        transform=transform_facts(
            input_px,
            [float(value) for value in origin.stated.get("mean", defaults["mean"])],
            [float(value) for value in origin.stated.get("std", defaults["std"])],
            interpolation if interpolation in INTERPOLATIONS else "bicubic",
        ),
        dim=dim,
        **runtime,
    )


def find_source(name: str, weights: str | None, revision: str | None) -> WeightsSource:
    """The weights' file of `timm/…`: `weights` (a file or folder) if given, else the hub's. Raises EncoderError."""
    if weights is None:
        repo = _repository_of(name)
        files = fetch(repo, revision)
        stated = _stated_by_config(files.config, name)
        if files.licence:
            stated["licence"] = files.licence
        return WeightsSource(files.weights, stated, HUB + repo, files.commit)
    path = Path(weights)
    if path.is_dir():
        file = next((path / item for item in WEIGHT_NAMES if (path / item).is_file()), None)
        if file is None or not (path / CONFIG_NAME).is_file():
            raise EncoderError(
                f"encoder {name}: the folder {path} has no {CONFIG_NAME} with {' or '.join(WEIGHT_NAMES)}"
            )
        return WeightsSource(file, _stated_by_config(path / CONFIG_NAME, name), LOCAL, revision or "")
    if not path.is_file():
        raise EncoderError(f"encoder {name}: no weights at {path}; give a file, a folder, or nothing to ask the hub")
    if path.suffix not in SUFFIXES:
        raise EncoderError(f"encoder {name}: weights {path.name}: not one of the formats {', '.join(SUFFIXES)}")
    stated = _stated_by_metadata(read_metadata(path), name)
    origin = f"{LOCAL}: {stated['source']}" if "source" in stated else LOCAL
    return WeightsSource(path, stated, origin, revision or "")


def _stated_by_metadata(metadata: dict[str, str], name: str) -> dict[str, Any]:
    """A safetensors file's free-form texts: what we know is taken, everything else left."""
    stated: dict[str, Any] = {"args": _arguments({key: metadata[key] for key in _ARGUMENTS if key in metadata}, name)}
    try:
        for key in ("mean", "std"):
            if key in metadata:
                stated[key] = [float(value) for value in metadata[key].split(",")]
        for key, ours in (("input_px", "input_px"), ("num_features", "dim")):
            if key in metadata:
                stated[ours] = int(metadata[key])
    except ValueError as error:
        raise EncoderError(f"encoder {name}: the weights' metadata cannot be read: {error}") from None
    for keys, ours in (
        (("timm_model", "architecture"), "architecture"),
        (("licence", "license"), "licence"),
        (("interpolation",), "interpolation"),
        (("source",), "source"),
    ):
        if value := next((metadata[key] for key in keys if key in metadata), None):
            stated[ours] = value
    return stated


def _stated_by_config(path: Path, name: str) -> dict[str, Any]:
    """A timm-style config.json; its arguments must all be known, since each changes the network."""
    try:
        config = parse_json(read_file(path, _MAX_CONFIG_BYTES))
        cfg = config.get("pretrained_cfg") or config
        args = dict(config.get("model_args") or {})
        stated: dict[str, Any] = {}
        if not isinstance(config["architecture"], str):
            raise TypeError("its architecture is not a text")
        stated["architecture"] = config["architecture"]
        for key in ("mean", "std", "interpolation"):
            if key in cfg:
                stated[key] = cfg[key]
        if "input_size" in cfg:
            stated["input_px"] = _square(name, cfg["input_size"])
        if "num_features" in config:
            stated["dim"] = int(config["num_features"])
        if licence := cfg.get("license") or config.get("license"):
            stated["licence"] = str(licence)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"encoder {name}: {path} is no timm config: {type(error).__name__} {error}") from None
    if isinstance(config.get("global_pool"), str) and config["global_pool"]:
        args.setdefault("global_pool", config["global_pool"])
    if unknown := sorted(set(args) - set(_ARGUMENTS) - {"num_classes"}):
        raise EncoderError(
            f"encoder {name}: its config sets {', '.join(unknown)}, which this version does not build; "
            f"known are {', '.join(sorted(_ARGUMENTS))}"
        )
    stated["args"] = _arguments({key: value for key, value in args.items() if key != "num_classes"}, name)
    return stated


def _arguments(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments of the allow-list, each as its own plain type: a file never chooses a class or a function."""
    parsed: dict[str, Any] = {}
    for key, value in values.items():
        kind = _ARGUMENTS[key]
        try:
            if kind is bool:
                parsed[key] = {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
            elif isinstance(value, str | int | float):
                parsed[key] = kind(value)
            else:
                raise ValueError
        except (ValueError, KeyError):
            raise EncoderError(f"encoder {name}: argument {key}={value!r} is not a {kind.__name__}") from None
    return parsed


def _is_plain(name: str) -> bool:
    return "/" not in name.removeprefix(PREFIX)


def _architecture_of(name: str) -> str:
    return name.removeprefix(PREFIX).split("/")[-1].split(".")[0]


def _repository_of(name: str) -> str:
    """The hub's repository: a model without a tag means timm's default weights for it."""
    model = name.removeprefix(PREFIX)
    if not _is_plain(name):
        return model
    if "." in model:
        return f"timm/{model}"
    timm = import_timm()
    if not timm.is_model(model):
        close = difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(PREFIX + item for item in close)}?" if close else ""
        raise EncoderError(f"encoder {name}: timm has no model {model}{hint}")
    config = timm.models.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        raise EncoderError(f"encoder {name}: timm has no hub weights for {model}; give a file with encoder_weights=")
    return str(config.hf_hub_id)


def _pooling(model: Any) -> str:
    """How the model reduces a tile's map, in timm's words."""
    pool = getattr(model, "global_pool", "")
    return str(getattr(pool, "pool_type", pool) or "none")


def _square(name: str, input_size: Any) -> int:
    _, height, width = input_size
    if height != width:
        raise EncoderError(f"encoder {name}: takes {width}×{height} px, and tiles are square")
    return int(height)
