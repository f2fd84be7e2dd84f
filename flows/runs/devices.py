"""Whether an encoder runs on a GPU, if gpus_per_actor leaves it open."""

from collections.abc import Sequence
from typing import TypeVar

from cluster.session import gpus_here, ray_session
from flows.config.commands import EmbedConfig, PredictConfig
from flows.config.flat import with_keys
from flows.config.keys import EmbedExecution, EncoderKeys, EncoderRuntime, RayKeys
from flows.config.store import StoreRepairConfig
from flows.runs.tiling import features_begun
from mhim_core.embed.card import RUNTIME_CUDA, EncoderCard
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import Storage

Config = TypeVar("Config", bound=EmbedConfig | PredictConfig | StoreRepairConfig)


_ONE_DEVICE = {
    EncoderRuntime.openvino: False,
    EncoderRuntime.openvino_bf16: False,
    EncoderRuntime.torch_fp16: True,
}
"""Runtimes that there are on a GPU alone, or on a CPU alone."""


def encodes_on_gpu(
    keys: EncoderKeys, spec: TileSpec, storage: Storage, execution: EmbedExecution, ray: RayKeys
) -> bool:
    """Whether this encoder's features are made on a GPU.

    Where that is left open: where there is one, except in a store whose same features were made on a CPU alone, which
    goes on so.
    """
    if execution.gpus_per_actor is not None:
        return execution.gpus_per_actor > 0
    if keys.encoder_runtime in _ONE_DEVICE:
        return _ONE_DEVICE[keys.encoder_runtime]
    if features_begun(keys, spec, storage, on_gpu=True):
        return True
    if not features_begun(keys, spec, storage, on_gpu=False):
        return _has_gpu(ray)
    if ray.ray_address == "local" and gpus_here():
        print(
            f"note: {storage.uri} has features of {keys.encoder} made on a CPU, and goes on so; a GPU's differ in the "
            "last bits: gpus_per_actor=1 embeds the slides anew beside them"
        )
    return False


def with_gpus_for(config: Config, cards: Sequence[EncoderCard]) -> Config:
    """The config with gpus_per_actor settled if it was open: 1 if an encoder needs a GPU, else 0."""
    if config.embedding.gpus_per_actor is not None:
        return config
    needed = any(card.runtime == RUNTIME_CUDA for card in cards)
    return with_keys(config, gpus_per_actor=float(needed))


def _has_gpu(ray: RayKeys) -> bool:
    if ray.ray_address == "local":
        return gpus_here() > 0
    with ray_session(ray.ray_address) as cluster:
        return cluster.num_gpus >= 1
