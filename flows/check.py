"""mhim check cohort=my.csv: checks the cohort table and its slides, row by row, before anything is embedded.

Inputs: the cohort table and its slides. Outputs: lines on the terminal and, with pictures=FOLDER, a picture of each
slide with its tissue and tile grid; nothing else is written.
Cost: opens each slide and reads its overview and up to 128 tiles, or all tiles if one of these cannot be read; one or
two seconds per slide on one core.
Exit code: that of `mhim embed` with the same keys, as far as these tiles can tell.
"""

from collections.abc import Iterator
from functools import partial

from cluster.decoding import AtHand, Decoder, JobStream, RetrySlide
from cluster.staging import STAGING_TIMEOUT_S, at_hand, staging_sweep
from cluster.storage import open_storage
from flows.config.commands import CheckConfig
from flows.config.keys import DecodeKeys
from flows.engine.result import FlowResult
from flows.runs.cohort import CohortInput, load_cohort
from mhim_core.cohort.summary import summarise
from mhim_core.errors import SlideError
from mhim_core.outcome import Outcome, reconcile
from mhim_core.printable import one_line
from mhim_core.slides.inspection import SlideInspection, inspect_slide
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.storage import Storage
from mhim_core.types import SlideTask, Status, StatusRow


def run(config: CheckConfig) -> FlowResult:
    """Raises CohortError (2) if the table itself is wrong."""
    cohort_input = load_cohort(
        config.data.cohort,
        strict=config.failures.strict,
        labels_uri=config.data.labels,
        options=config.table,
    )
    notes = (
        f"note: {note}" for note in (*cohort_input.cohort.notes, *summarise(cohort_input.cohort.rows, config.target))
    )
    for line in (*notes, *(f"warning: {finding}" for finding in cohort_input.warnings)):
        print(one_line(line))
    pictures = open_storage(config.pictures) if config.pictures else None
    outcome = inspect_all(cohort_input, config.tiles, config.policy, config.decode, pictures)
    print(outcome.summary())
    return FlowResult(exit_code=config.failures.exit_code_of(outcome))


def inspect_all(
    cohort_input: CohortInput, spec: TileSpec, policy: SlidePolicy, keys: DecodeKeys, pictures: Storage | None = None
) -> Outcome:
    """Inspect every slide in a child process, as a broken decoder must not end the check; print a line each."""
    tasks = cohort_input.tasks()
    staging_dir = keys.staging_dir or None
    decode = partial(_inspect, spec=spec, policy=policy, staging_dir=staging_dir, with_picture=pictures is not None)
    decoder = Decoder(decode, keys.decode_timeout_s, STAGING_TIMEOUT_S, staging_sweep(staging_dir))
    rows = []
    try:
        for task, stream in zip(tasks, decoder.streams(tasks), strict=True):
            rows.append(_row(task, stream, pictures))
            print(f"{task.slide_id}: {one_line(rows[-1].message)}", flush=True)
    finally:
        decoder.close()
    return reconcile([task.slide_id for task in tasks], rows)


def _row(task: SlideTask, stream: JobStream, pictures: Storage | None) -> StatusRow:
    while True:
        try:
            (inspection,) = stream
        except RetrySlide:
            continue
        except SlideError as error:
            return StatusRow(task.slide_id, Status.FAILED, error.reason, "check", type(error).__name__, str(error))
        if pictures is not None and inspection.picture is not None:
            pictures.put(f"{task.slide_id}.jpg", inspection.picture)
        status = Status.OK if inspection.num_tiles else Status.EMPTY
        return StatusRow(task.slide_id, status, message=_describe(inspection), num_tiles=inspection.num_tiles)


def _describe(inspection: SlideInspection) -> str:
    tiles = f"{inspection.num_tiles} tiles" if inspection.num_tiles else "empty: no tissue found"
    view = inspection.view._replace(resolution="")  # said once, in the warning
    warnings = [text for text in (inspection.view.warning(), inspection.decoding) if text]
    look = f"; warning: {'; '.join(warnings)}" if warnings else ""
    upsampled = f", enlarged {inspection.upsample:.2f}×" if inspection.upsample > 1 else ""
    return (
        f"{tiles}, {inspection.width_l0_px}×{inspection.height_l0_px} px "
        f"at {inspection.mpp_x:.4g} µm/px ({inspection.mpp_source})"
        f"{upsampled}, {inspection.vendor} by {inspection.decoder}; {view.describe()}{look}"
    )


def _inspect(
    task: SlideTask, *, spec: TileSpec, policy: SlidePolicy, staging_dir: str | None, with_picture: bool
) -> Iterator[AtHand | SlideInspection]:
    with at_hand(task, staging_dir) as slide:
        yield AtHand()
        yield inspect_slide(slide.path, slide.task, spec=spec, policy=policy, with_picture=with_picture)
