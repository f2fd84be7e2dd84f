"""How long a bag takes from its committed file to a verified tensor, beside a plain .npy file of the same numbers.

    python benchmarks/read_bag.py [--tiles 12000] [--dim 1024] [--repeats 21] [--out FILE]

Prints one JSON object: medians in ms over warm repeats, alternating between the forms so that both meet the same
machine. `committed` is Storage.get + sha256 + page checksums + schema + finiteness, to float32; `npy` is np.load to
float32 and verifies nothing.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideFeatures, SlideReading, SourceHint, SourceIdentity, TileCut
from mhim_core.storage import LocalStorage
from mhim_core.store.bags import ParquetBags
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.schema import encode_features
from mhim_core.types import BagId, SlideId


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=12_000)
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON there too")
    args = parser.parse_args()

    card = {"id": "benchmark", "dim": args.dim}
    feature_set = FeatureSet(tiling={}, encoder=card, encoder_identity=card)
    features = make_features(args.tiles, feature_set)
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(folder)
        record = commit(storage, feature_set, features).record
        npy = Path(folder, "plain.npy")
        np.save(npy, features.features)
        bags = ParquetBags(storage, {record.slide_id: record})
        cached = ParquetBags(storage, {record.slide_id: record}, cache_gib=1.0)
        medians = measure(
            {
                "committed": lambda: bags.read(BagId("slide")),
                "cached": lambda: cached.read(BagId("slide")),
                "npy": lambda: torch.from_numpy(np.load(npy)).to(torch.float32),
                "encode": lambda: encode_features(features),
            },
            args.repeats,
        )
    result = {
        "tiles": args.tiles,
        "dim": args.dim,
        "file_mb": round(record.num_bytes / 1e6, 2),
        "raw_mb": round(features.features.nbytes / 1e6, 2),
        **{f"{name}_ms": round(value, 1) for name, value in medians.items()},
        "ratio_to_npy": round(medians["committed"] / medians["npy"], 2),
        "cores": os.cpu_count(),
        "pyarrow": pa.__version__,
        "torch": torch.__version__,
    }
    text = json.dumps(result)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


def make_features(num_tiles: int, feature_set: FeatureSet) -> SlideFeatures:
    """Numbers like a network's after its last ReLU and average: a third zeros, the rest skewed."""
    rng = np.random.default_rng(0)
    values = np.maximum(rng.standard_normal((num_tiles, feature_set.dim)) + 0.4, 0).astype(np.float16)
    grid = np.arange(num_tiles, dtype=np.int32)
    return SlideFeatures(
        slide_id=SlideId("slide"),
        features=values,
        coords_l0_px=np.stack([grid % 100 * 256, grid // 100 * 256], axis=1).astype(np.int32),
        tissue_share=np.ones(num_tiles, np.float32),
        background_share=np.zeros(num_tiles, np.float32),
        reading=SlideReading(
            source=SourceIdentity(1, "benchmark"),
            hint=SourceHint("benchmark", 1, "1"),
            source_sha256="",
            mpp=MppUsed(0.5, 0.5, "slide"),
            effective_mpp=(0.5, 0.5),
            upsample=1.0,
            backend=BACKEND_OF_0_1,
        ),
        cut=TileCut(tiling=feature_set.tiling, tile_size_l0_px=(256, 256), width_l0_px=1024, height_l0_px=256),
        encoder=feature_set.encoder,
    )


def measure(forms: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, after two warm-up rounds, the forms taking turns."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats + 2):
        for name, form in forms.items():
            start_s = time.perf_counter()
            form()
            times[name].append((time.perf_counter() - start_s) * 1e3)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


if __name__ == "__main__":
    main()
