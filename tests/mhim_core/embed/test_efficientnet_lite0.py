from collections.abc import Callable
from pathlib import Path

import pytest

from mhim_core.embed import efficientnet_lite0
from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import EncoderError


@pytest.mark.thorough
def test_a_linear_probe_tells_eight_tissues_apart(
    efficientnet: TileEncoder, tissue_tiles, probe_accuracy: Callable[..., float]
) -> None:
    assert probe_accuracy(efficientnet, tissue_tiles) > 0.7  # 0.8 measured; guessing gives 0.2


def test_another_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    path.write_bytes(b"not the weights")
    with pytest.raises(EncoderError, match=f"expected {efficientnet_lite0.SHA256}"):
        encoder_card("efficientnet-lite0", weights=str(path))


def test_a_missing_package_names_the_extra_and_the_way_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite0, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"mhim\[encoders\].*hed-texture"):
        encoder_card("efficientnet-lite0")
