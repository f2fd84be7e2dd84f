"""What a report of many slides weighs: a made-up run of real pictures.

    python benchmarks/report_page.py --slides FOLDER --out DIR [--num 1000] [--page-mb 20] [--single-file]

The slides in FOLDER are drawn as `mhim report` draws them (overview, heat map of a made-up attention, eight tiles),
within the bytes that each of --num slides may take; then they are repeated under other names until there are --num. The
last line is one JSON object: seconds to draw one slide and to render the page, megabytes of the page and of its
pictures. How fast a browser opens `DIR/report.html` is measured by opening it.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from mhim_core.features import MppUsed
from mhim_core.metrics import Estimate
from mhim_core.report.data import ClassOutput, CohortSummary, ModelResult, Prediction, ReportData, SlidePanel
from mhim_core.report.page import render_report
from mhim_core.report.pictures import PicturesBeside, PicturesInside, bytes_per_slide
from mhim_core.report.slide_pictures import AttendedSlide, SlidePictures, draw_slide
from mhim_core.slides.reader import open_slide
from mhim_core.slides.spec import TileSpec

TILE_PX = 256
CLASSES = ("normal", "tumour")


def draw(path: Path, max_bytes: int, rng: np.random.Generator) -> SlidePictures:
    """One slide at 1 µm/px, all of it tiles of level 0."""
    with open_slide(path) as reader:
        size = (reader.info().width_l0_px, reader.info().height_l0_px)
    x, y = np.meshgrid(*(np.arange(0, side - TILE_PX, TILE_PX) for side in size), indexing="ij")
    coords = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int32)
    slide = AttendedSlide(
        coords, rng.random(len(coords)), (TILE_PX, TILE_PX), size, MppUsed(1.0, 1.0, "made up"), 1.0
    )  # fmt: skip
    return draw_slide(path, slide, TileSpec(target_mpp=1.0, tile_px=TILE_PX), 8, max_bytes)


def made_up(pictures: list[SlidePictures], num: int, rng: np.random.Generator) -> ReportData:
    """A report whose slides are all drawn, a tenth of them predicted wrong."""
    predictions = []
    for index in range(num):
        label, is_wrong = CLASSES[index % 2], rng.random() < 0.1
        probability = float(rng.uniform(0.5, 1))
        predicted = label if not is_wrong else CLASSES[1 - index % 2]
        shares = (1 - probability, probability) if predicted == CLASSES[1] else (probability, 1 - probability)
        output = ClassOutput(label, predicted, shares)
        predictions.append(Prediction(f"slide-{index:05}", f"patient-{index // 2:05}", output, index % 5))
    panels = [
        SlidePanel(
            slide_id=prediction.bag_id,
            overview=drawn.overview,
            heatmap=drawn.heatmap,
            top_tiles=drawn.top_tiles,
            prediction=prediction,
            num_tiles=1000,
            caption=f"fold {prediction.fold}",
        )
        for prediction, drawn in zip(predictions, (pictures * num)[:num], strict=True)
    ]
    return ReportData(
        title="made-up.csv: normal, tumour",
        task="Telling normal, tumour apart from whole slides; the predictions are made up.",
        classes=CLASSES,
        cohort=CohortSummary(
            name="made-up.csv", num_slides=num, num_patients=num // 2, num_ok=num, num_empty=0, num_failed=0
        ),
        models=(
            ModelResult(name="mhim", estimates={"auroc": Estimate(0.95, 0.93, 0.97)}, is_reported=True),
            ModelResult(name="plain", estimates={"auroc": Estimate(0.91, 0.88, 0.94)}),
        ),
        predictions=tuple(predictions),
        panels=tuple(panels),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--page-mb", type=float, default=20.0)
    parser.add_argument("--single-file", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    max_bytes = bytes_per_slide(options.page_mb, options.num, inside=options.single_file)
    paths = sorted(path for path in options.slides.iterdir() if path.is_file())
    start_s = time.monotonic()
    drawn = [draw(path, max_bytes, rng) for path in paths]
    drawn_s = time.monotonic()
    pictures = PicturesInside() if options.single_file else PicturesBeside("report")
    page = render_report(made_up(drawn, options.num, rng), pictures)
    rendered_s = time.monotonic()
    files = pictures.files if isinstance(pictures, PicturesBeside) else {}
    for key, data in {"report.html": page.encode(), **files}.items():
        (options.out / key).parent.mkdir(parents=True, exist_ok=True)
        (options.out / key).write_bytes(data)
    record = {
        "slides": options.num,
        "max_bytes_a_slide": max_bytes,
        "draw_s_a_slide": round((drawn_s - start_s) / len(paths), 2),
        "render_s": round(rendered_s - drawn_s, 2),
        "page_mb": round(len(page.encode()) / 1e6, 2),
        "pictures_mb": round(sum(map(len, files.values())) / 1e6, 2),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
