"""The demo's last step: the run's models on its test slides, compared with the foci, whose place is known."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.runs.fits import load_fold, model_digests, results_of
from flows.runs.folder import Run
from flows.runs.pages import write_page
from mhim_core.cohort.tasks import bags_in
from mhim_core.demo.cohort import FociKind
from mhim_core.demo.truth import SlideTruth, focus_shares, read_truth
from mhim_core.errors import NotFoundError
from mhim_core.evaluation.foci_figures import SHOWN, FociRow, summarise_foci
from mhim_core.evaluation.localisation import attention_dice, most_of_top, share_of_top
from mhim_core.features import MppUsed
from mhim_core.fingerprint import canonical_json, fingerprint, sha256
from mhim_core.records import parse_object
from mhim_core.storage import Storage

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.report.foci_page import FociPanel
    from mhim_core.store.schema import FeatureTable

SUMMARY, PAGE, PICTURE, PICTURES = "foci.json", "foci.html", "foci.jpg", "foci"
TITLES = {"plain": "plain", "mhim": "MHIM student"}
_NUM_DRAWN = {FociKind.quiet: 4, FociKind.loud: 2}
"""The first of each kind in the order of the table: none is chosen by how well it went."""
_SCHEMA = 2
_WIDTHS = (10, 7, 6, 12, 6, 15, 6)


class FociResult(NamedTuple):
    """What `judge_foci` found or wrote."""

    summary: dict[str, Any]
    """`mhim_core.evaluation.foci_figures`'s document."""
    recomputed: bool
    """False: an earlier call had written it for the same models."""


class _TestSlide(NamedTuple):
    """A test slide with the attention of every model and the foci of known place."""

    table: "FeatureTable"
    truth: SlideTruth
    attention: Mapping[str, Any]
    rows: Mapping[str, FociRow]


def judge_foci(run: Run, truth: bytes, out: Storage) -> FociResult:
    """Write foci.json, foci.html with its pictures in foci/, and foci.jpg into `out`, unless they are there of these
    models and foci.

    The run is of one fold and seed, and its test slides are painted ones. Raises InputError where it is not finished.
    """
    [fits] = results_of(run)
    digest = fingerprint({"models": model_digests([fits]), "truth": sha256(truth), "schema": _SCHEMA})
    present = _read(out)
    if present is not None and present["of"] == digest:
        return FociResult(present["summary"], False)
    from mhim_core.report.foci_page import FociPage, render_foci
    from mhim_core.report.pictures import PicturesBeside

    slides = list(_test_slides(run, read_truth(truth)))
    summary = json.loads(canonical_json(summarise_foci([row for slide in slides for row in slide.rows.values()])))
    titles = {name: TITLES[name] for name in TITLES if name in summary["models"]}
    panels = [_panel(run, slide, titles) for slide in _drawn(slides)]
    num_train = sum(len(split.train) for split in run.splits)
    pictures = PicturesBeside(PICTURES)
    write_page(out, PAGE, render_foci(FociPage(summary, titles, num_train, panels), pictures), pictures, PICTURES)
    if panels:
        out.put(PICTURE, panels[0].picture)
    out.put(SUMMARY, canonical_json({"of": digest, "summary": summary}))  # last: it says that the rest is there
    return FociResult(summary, True)


def foci_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """What the demo prints: the AUROCs, the Dice and the shares of the ten top tiles, a line a model."""
    num, possible = summary["num"], summary["possible"]
    yield (
        f"test slides: {num['quiet']} with quiet foci only, {num['loud']} with loud ones only, {num['none']} without "
        f"tumour; of the ten top tiles at most {_number(possible['quiet'])} and {_number(possible['loud'])} inside"
    )
    yield _columns("", ["AUROC all", "quiet", "loud", "Dice quiet", "loud", "top ten quiet", "loud"])
    for name in (name for name in TITLES if name in summary["models"]):
        figures = summary["models"][name]
        shown = [
            figures["auroc"]["all"],
            *(figures[figure][kind] for figure in ("auroc", "dice", "top_ten") for kind in SHOWN),
        ]
        yield _columns(TITLES[name], [_number(value) for value in shown])


def _columns(title: str, values: Sequence[str]) -> str:
    return f"{title:<13}" + "".join(f"{value:>{width}}" for value, width in zip(values, _WIDTHS, strict=True))


def _test_slides(run: Run, truth: Mapping[str, SlideTruth]) -> Iterator[_TestSlide]:
    from mhim_core.train.inference import predict_tables

    [fits], [split] = results_of(run), run.splits
    source, voters = run.bag_source(), load_fold(run, fits).voters
    for bag in bags_in(run.bags, split.test):
        [table] = source.read_tables(bag.bag_id)
        known = truth[table.slide_id]
        share_N = focus_shares(known.foci, table.coords_l0_px, tuple(table.metadata["tile_size_l0_px"]))
        attention, rows = {}, {}
        for name in (name for name in TITLES if name in voters):
            prediction = predict_tables([table], [voters[name]])
            [attention[name]] = prediction.attention
            normal, tumour = prediction.logits_MC[0]
            rows[name] = FociRow(
                name,
                table.slide_id,
                known.shows,
                float(tumour - normal),
                attention_dice(attention[name], share_N),
                share_of_top(attention[name], share_N),
                most_of_top(share_N),
            )
        yield _TestSlide(table, known, attention, rows)


def _drawn(slides: list[_TestSlide]) -> Iterator[_TestSlide]:
    for kind in SHOWN:
        yield from [slide for slide in slides if slide.truth.shows is kind][: _NUM_DRAWN[kind]]


def _panel(run: Run, slide: _TestSlide, titles: Mapping[str, str]) -> "FociPanel":
    from mhim_core.report.foci_page import FociPanel, draw_foci

    facts = slide.table.metadata
    uri = next(row.uri for row in run.slides if row.slide_id == slide.table.slide_id)
    picture = draw_foci(
        Path(uri),
        slide.truth.foci,
        slide.table.coords_l0_px,
        tuple(facts["tile_size_l0_px"]),
        MppUsed(facts["mpp"][0], facts["mpp"][1], "features"),
        [slide.attention[name] for name in titles],
    )
    captions = {
        title: f"Dice {_number(slide.rows[name].dice)}, {_number(slide.rows[name].top_ten)} of the ten top tiles inside"
        for name, title in titles.items()
    }
    return FociPanel(slide.table.slide_id, slide.truth.shows, len(slide.table.features), captions, picture)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _read(out: Storage) -> dict[str, Any] | None:
    try:
        return parse_object(out.get(SUMMARY), out.locate(SUMMARY))
    except NotFoundError:
        return None
