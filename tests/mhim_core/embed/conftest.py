"""Tiles and encoders for the embedding tests: each encoder is loaded once per session."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from mhim_core.embed.efficientnet_lite0 import PACKAGE
from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.registry import load_encoder

MOBILENET = "timm/mobilenetv2_100"


class LabelledTiles(NamedTuple):
    """uint8 (100, 224, 224, 3) H&E tiles and their tissue classes, 0 to 7."""

    tiles: torch.Tensor
    labels: np.ndarray


@pytest.fixture(scope="session")
def tissue_tiles(shared_data: Path) -> LabelledTiles:
    paths = sorted((shared_data / "tiles").glob("*.png"))
    assert len(paths) == 100
    tiles = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return LabelledTiles(torch.from_numpy(tiles), np.array([int(path.stem.split("_")[-1]) for path in paths]))


@pytest.fixture(scope="session")
def mobilenet_weights(shared_data: Path) -> Path:
    return shared_data / "encoders" / "mobilenetv2_100_imagenet.safetensors"


@pytest.fixture(scope="session")
def hed_texture() -> TileEncoder:
    return load_encoder("hed-texture")


@pytest.fixture(scope="session")
def efficientnet() -> TileEncoder:
    if find_spec(PACKAGE) is None:
        pytest.skip("the extra `encoders` is not installed")
    return load_encoder("efficientnet-lite0")


@pytest.fixture(scope="session")
def efficientnet_openvino(efficientnet: TileEncoder) -> TileEncoder:
    if find_spec("openvino") is None:
        pytest.skip("the extra `openvino` is not installed")
    return load_encoder(efficientnet.card.id, runtime="openvino")


@pytest.fixture(scope="session")
def mobilenet(mobilenet_weights: Path) -> TileEncoder:
    return load_encoder(MOBILENET, weights=str(mobilenet_weights))


@pytest.fixture(params=["hed_texture", "efficientnet", "mobilenet", "efficientnet_openvino"])
def any_encoder(request: pytest.FixtureRequest) -> TileEncoder:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def noisy_tiles() -> torch.Tensor:
    """uint8 (21, 96, 96, 3): structure at several scales, and no tile like another."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(21, 3, 12, 12, generator=generator) * 200
    fine = torch.rand(21, 3, 96, 96, generator=generator) * 55
    smooth = torch.nn.functional.interpolate(coarse, size=96, mode="bilinear", align_corners=False)
    return (smooth + fine).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _probe_accuracy(encoder: TileEncoder, labelled: LabelledTiles) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = encoder(labelled.tiles).numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(probe, features, labelled.labels, cv=folds).mean())


@pytest.fixture(scope="session")
def probe_accuracy() -> Callable[[TileEncoder, LabelledTiles], float]:
    """Mean 5-fold accuracy of logistic regression on standardised features."""
    return _probe_accuracy
