"""A torch network compiled by OpenVINO for this machine's CPU: the same function in half the time or less.

torch.export → openvino.convert_model → compile_model, with static shapes, one thread and a stated precision, so that a
tile's feature is bit-equal whatever its batch mates; every network is held against torch's own float32 at loading. The
one place that imports openvino, whose telemetry is kept out: nothing is sent.
"""

import io
import sys
import warnings
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from mhim_core.embed.agreement import check_agreement, trial_tiles
from mhim_core.embed.card import BFLOAT16, FLOAT32, EncoderCard
from mhim_core.embed.onnx_file import names_other_files
from mhim_core.errors import EncoderError

_TELEMETRY = "openvino_telemetry"
_HINTS = {FLOAT32: "f32", BFLOAT16: "bf16"}
_INSTRUCTION_SETS = frozenset({"amx", "avx512", "avx2", "avx", "sse42", "sse41", "sve", "neon"})
"""As they stand in the names of kernels, such as brgconv_avx512_1x1_f32."""


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

    `network`: a torch module, or the bytes of an ONNX file. Raises EncoderError if openvino is not installed, the
    network cannot be exported or read, or this CPU lacks the precision.
    """

    def __init__(self, card: EncoderCard, network: nn.Module | bytes) -> None:
        super().__init__()
        openvino = import_openvino()
        if isinstance(network, bytes):
            model = _read_onnx(openvino, card, network)
        else:
            model = _exported(openvino, card, network)
        compiled = openvino.Core().compile_model(model, "CPU", _properties(card))
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
    with torch.inference_mode():
        batches = [transform(batch) for batch in trial_tiles().split(card.batch_size)]
        check_agreement(card, "compiled by OpenVINO", map(compiled, batches), map(network, batches))
    return compiled


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
    return _channels_last(openvino, model)


def _read_onnx(openvino: Any, card: EncoderCard, data: bytes) -> Any:
    """An ONNX file's model of one static shape. Raises EncoderError where it takes weights from other files, too."""
    if names_other_files(data):
        raise EncoderError(
            f"encoder {card.id}: the ONNX file keeps weights in other files, which its sha256 does not cover; save it "
            "as one file"
        )
    try:
        model = openvino.Core().read_model(io.BytesIO(data))
        model.reshape([card.batch_size, 3, card.transform["input_px"], card.transform["input_px"]])
        return _channels_last(openvino, model)
    except Exception as error:  # the reader raises whatever the file leads it to
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EncoderError(
            f"encoder {card.id}: OpenVINO does not read the ONNX file ({reason}); it must take one float32 input "
            "(b, 3, p, p) for any b"
        ) from error


def _channels_last(openvino: Any, model: Any) -> Any:
    """The model taking channels-last pixels as they lie in memory."""
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
