"""Arrays in other tools' files: HDF5, `.pt` and `.npz` as bytes, read without running anything that is in them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from mhim_core.errors import ConfigError, OtherFormatError, SlideError
from mhim_core.store.schema import MAX_ROWS
from mhim_core.types import FailureReason

_MAX_GROWTH = 1000
"""Times a file's size that its arrays may take: more is no features, but a file made to fill the memory."""
_FREE_BYTES = 2**20


def require_h5py() -> ModuleType:
    """Raises ConfigError where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("reading and writing .h5 files needs h5py: pip install 'mhim[interop]'") from error
    return h5py  # type: ignore[no-any-return,unused-ignore]


@contextmanager
def opened_h5(data: bytes) -> Iterator[Any]:
    """An HDF5 file in memory. Raises as h5py does for other bytes."""
    with require_h5py().File(io.BytesIO(data), "r") as file:
        yield file


def h5_array(file: Any, name: str, num_bytes: int) -> np.ndarray | None:
    """A data set of a file of `num_bytes`; None: it is not there. Raises SlideError(bad_features) for a huge one."""
    dataset = file.get(name)
    if not hasattr(dataset, "shape"):
        return None
    check_size(name, dataset.shape, dataset.dtype.itemsize, num_bytes)
    values: np.ndarray = dataset[()]
    return values


def features_and_coords(file: Any, name: str, tool: str, num_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """The data sets `name` and coords. Raises OtherFormatError with what the file holds instead, and as `h5_array`."""
    features, coords = (h5_array(file, each, num_bytes) for each in (name, "coords"))
    if features is not None and coords is not None:
        return features, coords
    held = sorted(str(each) for each in file)
    whose = ""
    if "coords" in held and len(held) == 1:
        whose = ", coordinates alone, as those in patches/ of TRIDENT and CLAM"
    elif {"feats", "coords"} <= set(held):
        whose = ", as those of STAMP (format=stamp)"
    elif {"features", "coords"} <= set(held):
        whose = ", as those of TRIDENT and CLAM (format=trident, format=clam)"
    raise OtherFormatError(
        FailureReason.OPEN,
        f"it has not both {name} and coords, as files of {tool} have; it holds "
        f"{', '.join(held[:8]) or 'nothing'}{whose}",
    )


def check_size(name: str, shape: tuple[int, ...], item_bytes: int, num_bytes: int) -> None:
    """Raises SlideError(bad_features) for an array beyond what features in a file of that size can be."""
    if (shape and shape[0] > MAX_ROWS) or np.prod(
        shape, dtype=float
    ) * item_bytes > _MAX_GROWTH * num_bytes + _FREE_BYTES:
        raise SlideError(FailureReason.BAD_FEATURES, f"{name} of shape {shape} cannot be features of a slide")


def attributes(holder: Any) -> dict[str, Any]:
    """Of a file or data set, numbers and texts as Python's own."""
    return {str(name): _plain(value) for name, value in holder.attrs.items()}


def write_h5(
    arrays: Mapping[str, np.ndarray],
    attributes_of: Mapping[str, Mapping[str, object]] | None = None,
    file_attributes: Mapping[str, object] | None = None,
) -> bytes:
    """An HDF5 file of data sets with attributes each, and of the file; the same values give the same bytes."""
    buffer = io.BytesIO()
    with require_h5py().File(buffer, "w") as file:
        for name, values in arrays.items():
            dataset = file.create_dataset(name, data=values)
            for key, value in (attributes_of or {}).get(name, {}).items():
                dataset.attrs[key] = value
        for key, value in (file_attributes or {}).items():
            file.attrs[key] = value
    return buffer.getvalue()


def read_tensor(data: bytes) -> np.ndarray:
    """The tensor of a `.pt` file; bfloat16, which NumPy does not have, as float32.

    Raises SlideError(open) where the file holds anything else, since a pickle can run code.
    """
    import torch

    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may break the reader in any way
        reason = str(error).strip().split("\n")[0]
        raise SlideError(
            FailureReason.OPEN,
            "not a .pt file of tensors alone, and nothing else is read, since a pickle can run code "
            f"({type(error).__name__}: {reason})",
        ) from error
    if not isinstance(tensor, torch.Tensor):
        kind = type(tensor).__name__
        raise OtherFormatError(FailureReason.BAD_FEATURES, f"the .pt file holds a {kind}, not one tensor")
    if tensor.layout is not torch.strided:
        raise SlideError(FailureReason.BAD_FEATURES, "the .pt file holds a sparse tensor")
    tensor = tensor.detach()
    check_size("the tensor", tuple(tensor.shape), tensor.element_size(), len(data))
    values: np.ndarray = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).contiguous().numpy()
    return values


def write_tensor(values: np.ndarray) -> bytes:
    """A `.pt` file of one tensor; the same values give the same bytes."""
    import torch

    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.ascontiguousarray(values)), buffer)
    return buffer.getvalue()


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name. Raises as NumPy does for other bytes, and SlideError(bad_features)."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        infos = {info.filename: info.file_size for info in file.zip.infolist()}
        if sum(infos.values()) > _MAX_GROWTH * len(data) + _FREE_BYTES:
            raise SlideError(FailureReason.BAD_FEATURES, "its arrays cannot be those of a slide")
        return {name: file[name] for name in file.files}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if hasattr(value, "item") else value
