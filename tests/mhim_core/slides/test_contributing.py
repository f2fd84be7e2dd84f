"""CONTRIBUTING, "Adding a reader", followed to the letter: one file, and the reader gives OpenSlide's pixels."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"

FOLLOWED = """
import sys
import mhim_core.slides.backends as backends
backends.__path__.append(sys.argv[1])  # where the new file lies, as if it were in the folder

from mhim_core.slides.spec import SlidePolicy, TileSpec, stored_spec, tiling_identity
assert not {"numpy", "openslide", "tifffile"} & sys.modules.keys(), "--help reads the names"
spec = TileSpec(backend="whole-levels", target_mpp=1.0)
assert tiling_identity(spec)["backend"] == {"name": "whole-levels", "version": 1}
assert stored_spec(tiling_identity(spec), "slides").backend == "whole-levels"
(choices,) = [field.metadata["choices"] for name, field in TileSpec.__dataclass_fields__.items() if name == "backend"]
assert {*choices} > {"auto", "direct", "openslide", "plain", "whole-levels"}, choices

import dataclasses
from pathlib import Path
import numpy as np
import tifffile
from mhim_core.errors import SlideError
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.reader import open_slide
from mhim_core.types import FailureReason

path = Path(sys.argv[1], "slide.tiff")
pixels = np.full((1200, 1500, 3), 243, np.uint8)
pixels[200:1000, 200:1200] = np.random.default_rng(0).integers(90, 200, (800, 1000, 3))
pixels[200:1000, 200:1200, 1] //= 2
with tifffile.TiffWriter(path) as file:
    for step in (1, 2):
        file.write(pixels[::step, ::step], photometric="rgb", tile=(128, 128), subfiletype=int(step > 1))
tiles = []
for backend in ("openslide", "whole-levels"):
    of_backend = dataclasses.replace(spec, backend=backend)
    with prepare_slide(path, mpp_override=0.5, spec=of_backend, policy=SlidePolicy()) as slide:
        assert slide.plan.level == 1, slide.plan.level
        tiles.append(np.concatenate([batch.tiles for batch in slide.reader.tiles(slide.plan)]))
assert len(tiles[0]) == 5, tiles[0].shape
assert np.array_equal(*tiles)
Path(sys.argv[1], "no.tiff").write_text("no slide")
try:
    open_slide(Path(sys.argv[1], "no.tiff"), "whole-levels")
except SlideError as error:
    assert error.reason is FailureReason.OPEN
else:
    raise AssertionError
"""


def test_a_file_of_the_text_is_a_reader_with_the_pixels_of_openslide(tmp_path: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Adding a reader\n")[2].partition("\n## ")[0]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    (tmp_path / "whole_levels.py").write_text(example.group(1))
    done = subprocess.run([sys.executable, "-c", FOLLOWED, str(tmp_path)], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
