"""The tissue finder and the encoder's runtime of a store's slides, if the keys leave them open."""

import dataclasses
import functools

from flows.config.keys import EncoderKeys, EncoderRuntime
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.preset import scale_warning
from mhim_core.embed.registry import encoder_card, openvino_is_installed, prefers_openvino
from mhim_core.slides.spec import TileSpec, TissueMethod, tiling_identity
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet, is_registered
from mhim_core.types import IMPORTED


def feature_set_of(spec: TileSpec, card: EncoderCard) -> FeatureSet:
    """The feature set of this tiling and encoder."""
    return FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())


def tiling_words(feature_set: FeatureSet) -> str:
    """The set's tiling for people, such as `256 px at 0.5 µm/px, 25 % tissue by glass-relative`.

    Only what the set states: other versions of mhim may state something else.
    """
    settings = {path.removeprefix("spec."): value for path, value in feature_set.tiling_settings.items()}
    words = [
        f"{settings['tile_px']} px" if "tile_px" in settings else "",
        f"at {settings['target_mpp']:g} µm/px" if "target_mpp" in settings else "",
        f"overlap {settings['overlap_px']} px" if settings.get("overlap_px") else "",
        f"{settings['min_tissue']:.0%} tissue" if "min_tissue" in settings else "",
        f"by {settings['tissue.name']}" if "tissue.name" in settings else "",
        f"inside {', '.join(settings['roi'])}" if settings.get("roi") else "",
        f"outside {', '.join(settings['exclude'])}" if settings.get("exclude") else "",
        f"in colours of {settings['colour.name']}" if "colour.name" in settings else "",
        "at places of files" if settings.get("placed") else "",
        f"{settings['select_share']:.0%} by {settings['select_rule']}" if "select_rule" in settings else "",
        "without coordinates" if settings.get(f"{IMPORTED}.coords") == "none" else "",
    ]
    return " ".join(word for word in words if word)


def settled_spec(spec: TileSpec, card: EncoderCard, storage: Storage) -> TileSpec:
    """The spec with tissue=auto resolved: glass, or otsu if the store holds the same features by otsu only.

    A store begun with version 0.1 thus keeps its tissue finder, and a note says so; tissue= overrides this.
    """
    if spec.tissue is not TissueMethod.auto:
        return spec
    by_glass = dataclasses.replace(spec, tissue=TissueMethod.glass)
    if spec.keep_pen or not spec.keep_fat or is_registered(storage, feature_set_of(by_glass, card).fingerprint):
        return by_glass
    by_otsu = dataclasses.replace(spec, tissue=TissueMethod.otsu)
    if not is_registered(storage, feature_set_of(by_otsu, card).fingerprint):
        return by_glass
    print(
        f"note: {storage.uri} was begun with tissue=otsu, the tissue finder of mhim 0.1, and goes on with it; it "
        "misses pale tissue: tissue=glass embeds the slides anew beside these features"
    )
    return by_otsu


def warn_of_scale(keys: EncoderKeys, spec: TileSpec) -> None:
    """Print a warning where the encoder was trained at another µm/px. Needs no weights, so that who lacks them reads it
    before they are fetched."""
    if warning := scale_warning(keys.encoder, spec.target_mpp):
        print(f"warning: {warning}", flush=True)


def settled_card(keys: EncoderKeys, spec: TileSpec, storage: Storage | None, *, on_gpu: bool) -> EncoderCard:
    """The encoder's card with encoder_runtime=auto resolved.

    OpenVINO, if that is preferred and installed, or has made the same features of the store alone; otherwise torch,
    and so in a store that was begun with it. `storage` None: a new store. Raises EncoderError as `encoder_card` does.
    """
    card_of = functools.partial(_card_of, keys, on_gpu=on_gpu)
    if keys.encoder_runtime is not EncoderRuntime.auto:
        return card_of(keys.encoder_runtime)
    by_torch = card_of(EncoderRuntime.torch)
    if on_gpu or not prefers_openvino(keys.encoder) or _is_begun(storage, spec, by_torch):
        return by_torch
    by_openvino = card_of(EncoderRuntime.openvino)
    return by_openvino if openvino_is_installed() or _is_begun(storage, spec, by_openvino) else by_torch


def _card_of(keys: EncoderKeys, runtime: EncoderRuntime, *, on_gpu: bool) -> EncoderCard:
    return encoder_card(
        keys.encoder,
        weights=keys.weights_of(keys.encoder),
        revision=keys.encoder_revision or None,
        device="cuda" if on_gpu else "cpu",
        runtime=runtime.value,
    )


def features_begun(keys: EncoderKeys, spec: TileSpec, storage: Storage, *, on_gpu: bool) -> bool:
    """Whether the store has such features of the encoder, made there. Raises EncoderError as `encoder_card` does."""
    if keys.encoder_runtime is not EncoderRuntime.auto:
        runtimes = [keys.encoder_runtime]
    elif on_gpu or not prefers_openvino(keys.encoder):
        runtimes = [EncoderRuntime.torch]
    else:
        runtimes = [EncoderRuntime.torch, EncoderRuntime.openvino]
    return any(_is_begun(storage, spec, _card_of(keys, runtime, on_gpu=on_gpu)) for runtime in runtimes)


def _is_begun(storage: Storage | None, spec: TileSpec, card: EncoderCard) -> bool:
    """Whether the store has such features by any tissue finder that the spec leaves open."""
    if storage is None:
        return False
    methods = [spec.tissue]
    if spec.tissue is TissueMethod.auto:
        methods = (
            [TissueMethod.glass] if spec.keep_pen or not spec.keep_fat else [TissueMethod.glass, TissueMethod.otsu]
        )
    specs = [dataclasses.replace(spec, tissue=method) for method in methods]
    return any(is_registered(storage, feature_set_of(choice, card).fingerprint) for choice in specs)
