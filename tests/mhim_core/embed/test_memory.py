"""A batch of tiles that cannot fit is refused before any work."""

import dataclasses

import pytest

from mhim_core.embed.card import RUNTIME_CUDA
from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.memory import batch_bytes, batches_bytes, check_batch
from mhim_core.errors import ConfigError


def test_a_batch_takes_what_its_pixels_take_as_bytes_and_as_floats_on_the_machine(hed_texture: TileEncoder) -> None:
    card = dataclasses.replace(hed_texture.card, batch_size=8)
    assert batch_bytes(card, 4096) == 8 * 4096 * 4096 * 3 * 5
    on_gpu = dataclasses.replace(card, runtime=RUNTIME_CUDA, batch_size=128)
    assert batch_bytes(on_gpu, 4096) == 128 * 4096 * 4096 * 3 * 2


def test_what_fits_is_let_in_and_what_does_not_is_refused_with_the_figures(hed_texture: TileEncoder) -> None:
    card = dataclasses.replace(hed_texture.card, batch_size=8)
    check_batch([card], 256, 64, 2**30)
    check_batch([card], 4096, 2, 5 * 10**9)
    with pytest.raises(ConfigError, match=r"tile_px=4096.* 2\.0 GB in each of 3 .* 5\.0 GB; .* or embed_actors=2"):
        check_batch([card], 4096, 3, 5 * 10**9)
    with pytest.raises(ConfigError, match=r"set a smaller tile_px$"):
        check_batch([card], 4096, 1, 10**9)


def test_of_several_encoders_all_batches_wait_as_bytes_and_one_is_encoded(hed_texture: TileEncoder) -> None:
    small = dataclasses.replace(hed_texture.card, batch_size=2)
    large = dataclasses.replace(hed_texture.card, batch_size=8)
    tile_bytes = 4096 * 4096 * 3
    assert batches_bytes([large], 4096) == batch_bytes(large, 4096)
    assert batches_bytes([small, large], 4096) == (2 + 8 + 4 * 8) * tile_bytes
    check_batch([large], 4096, 1, 41 * tile_bytes)
    with pytest.raises(ConfigError, match=r"a batch of 2 and 8 tiles .* fewer encoders"):
        check_batch([small, large], 4096, 1, 41 * tile_bytes)
