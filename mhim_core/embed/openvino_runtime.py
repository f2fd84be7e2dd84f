"""A torch network compiled by OpenVINO for this machine's CPU: the same function in half the time or less.

torch.export → openvino.convert_model → compile_model, with static shapes, one thread and a stated precision, so that a
tile's feature is bit-equal whatever its batch mates; every network is held against torch's own float32 at loading. The
one place that imports openvino, whose telemetry is kept out: nothing is sent.
"""

import sys
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from mhim_core.embed.card import BFLOAT16, FLOAT32, EncoderCard
from mhim_core.errors import EncoderError

_TELEMETRY = "openvino_telemetry"
_HINTS = {FLOAT32: "f32", BFLOAT16: "bf16"}
_INSTRUCTION_SETS = frozenset({"amx", "avx512", "avx2", "avx", "sse42", "sse41", "sve", "neon"})
"""As they stand in the names of kernels, such as brgconv_avx512_1x1_f32."""
_NUM_TRIAL_TILES, _TRIAL_TILE_PX = 4, 256


class Agreement(NamedTuple):
    """How far features are from those of torch in float32, at the worst of the trial tiles."""

    relative_error: float
    """‖difference‖ / ‖feature‖."""
    cosine: float


BOUNDS = {FLOAT32: Agreement(1e-3, 0.9999), BFLOAT16: Agreement(0.1, 0.995)}
"""By precision what is let pass on the trial tiles. Measured with two networks: 3e-6 in float32; in bfloat16, whose 8
bits every layer rounds to, 0.045 and 0.9991 (on 25 real tiles at worst 0.11 and 0.994)."""


def import_openvino() -> Any:
    """openvino without its telemetry, which would report its import. Raises EncoderError if it is not installed.

    A process that had imported openvino before has its telemetry, as whoever imported it wished.
    """
    if "openvino" not in sys.modules:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # not importable: openvino takes its own stub
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"encoder_runtime=openvino needs the package {error.name}: pip install 'mhim[openvino]'; "
            "or set encoder_runtime=torch (other features in the last bits: they are embedded anew)"
        ) from None
    finally:
        if sys.modules.get(_TELEMETRY, sys) is None:
            del sys.modules[_TELEMETRY]
    return openvino


class CompiledNetwork(nn.Module):
    """float32 (batch_size, 3, p, p) → float32 (batch_size, d), in exactly the card's batches.

    Raises EncoderError if openvino is not installed, the network cannot be exported, or this CPU lacks the precision.
    """

    def __init__(self, card: EncoderCard, network: nn.Module) -> None:
        super().__init__()
        openvino = import_openvino()
        compiled = openvino.Core().compile_model(_exported(openvino, card, network), "CPU", _properties(card))
        if compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != _HINTS[card.precision]:
            raise EncoderError(
                f"encoder {card.id} computes in {card.precision}, which this machine's CPU does not; set "
                "encoder_runtime=openvino, or torch (other features: they are embedded anew)"
            )
        self._request = compiled.create_infer_request()
        self.instruction_set = _instruction_set(compiled)

    def forward(self, pixels: Float32[Tensor, "b 3 p p"]) -> Float32[Tensor, "b d"]:
        pixels_bppc = pixels.permute(0, 2, 3, 1).contiguous()  # a view: the transform's pixels are channels-last
        outputs = self._request.infer({0: pixels_bppc.numpy()}, share_inputs=True)
        return torch.from_numpy(outputs[0].copy())  # the request writes its next result to the same place


def compiled_network(card: EncoderCard, transform: nn.Module, network: nn.Module) -> CompiledNetwork:
    """The network compiled, and held against itself on trial tiles. Raises EncoderError if it is not the same."""
    compiled = CompiledNetwork(card, network.eval().requires_grad_(False))
    tiles = trial_tiles(_NUM_TRIAL_TILES)
    with torch.inference_mode():
        batches = [transform(batch) for batch in tiles.split(card.batch_size)]
        found = agreement(map(compiled, batches), map(network, batches))
    bound = BOUNDS[card.precision]
    if not (found.relative_error <= bound.relative_error and found.cosine >= bound.cosine):
        raise EncoderError(
            f"encoder {card.id} compiled by OpenVINO ({card.precision}) is not the same network: features are off by "
            f"{found.relative_error:.1e} of their length (at most {bound.relative_error:g}), cosine {found.cosine:.6f} "
            f"(at least {bound.cosine:g}); set encoder_runtime=torch"
        )
    return compiled


def agreement(found: Iterable[Float32[Tensor, "b d"]], expected: Iterable[Float32[Tensor, "b d"]]) -> Agreement:
    """Of batches of features with those that they should be; NaN where a feature is."""
    found_Nd, expected_Nd = torch.cat(list(found)).double(), torch.cat(list(expected)).double()
    relative_N = (found_Nd - expected_Nd).norm(dim=1) / expected_Nd.norm(dim=1)
    return Agreement(float(relative_N.max()), float(F.cosine_similarity(found_Nd, expected_Nd).min()))


def trial_tiles(num_tiles: int) -> UInt8[Tensor, "b h w 3"]:
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


def _exported(openvino: Any, card: EncoderCard, network: nn.Module) -> Any:
    """The network as OpenVINO's model of one static shape, taking channels-last pixels as they lie."""
    input_px = card.transform["input_px"]
    pixels = torch.zeros(card.batch_size, 3, input_px, input_px).to(memory_format=torch.channels_last)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of two packages about each other
            model = openvino.convert_model(torch.export.export(network, (pixels,)))
    except Exception as error:  # torch.export and the converter raise whatever the layer leads them to
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EncoderError(
            f"encoder {card.id} cannot be exported to OpenVINO ({type(error).__name__}: {reason}); "
            "set encoder_runtime=torch"
        ) from error
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


def _properties(card: EncoderCard) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[card.precision],
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": card.num_threads,
        "ENABLE_CPU_PINNING": False,  # every actor would pin its thread to the same core
    }


def _instruction_set(compiled: Any) -> str:
    """Of the kernels that were chosen, such as `avx512`: another one gives other last bits."""
    kernels = (node.get_rt_info()["primitiveType"].astype(str) for node in compiled.get_runtime_model().get_ops())
    return " ".join(sorted(_INSTRUCTION_SETS & {word for kernel in kernels for word in kernel.split("_")}))
