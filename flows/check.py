"""mhim check cohort=my.csv: checks the cohort table and its slides, row by row, before anything is embedded.

Inputs: the cohort table and its slides. Outputs: lines on the terminal and, with pictures=FOLDER, a picture of each
slide with its tissue, regions and tiles; nothing else is written. With estimate=true a sample of the slides is checked,
and what embedding all of them would cost is told.
Cost: opens each slide and reads its overview and up to 128 tiles, or all tiles if one of these cannot be read; one or
two seconds per slide on one core.
Exit code: that of `mhim embed` with the same keys, as far as these tiles can tell.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from cluster.decoding import AtHand, Decoder, JobStream, RetrySlide
from cluster.region_files import region_files
from cluster.staging import STAGING_TIMEOUT_S, at_hand, remote_for, staging_sweep
from cluster.storage import open_storage
from flows.config.commands import CheckConfig
from flows.config.keys import DecodeKeys
from flows.engine.result import FlowResult
from flows.runs.cohort import CohortInput, load_cohort
from flows.runs.estimate import cohort_slides, measured_tiles_per_s
from flows.runs.regions import with_regions
from flows.runs.tiling import settled_card, warn_of_scale
from mhim_core.cohort.summary import summarise
from mhim_core.embed.estimate import SampledSlide, estimate_lines, estimated, sample_slides
from mhim_core.errors import SlideError
from mhim_core.outcome import Outcome, reconcile
from mhim_core.printable import one_line
from mhim_core.slides.inspection import SlideInspection, inspect_slide
from mhim_core.slides.remote import RemoteOptions
from mhim_core.slides.segmenter import SegmenterFile
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.storage import Storage
from mhim_core.types import SlideId, SlideTask, Status, StatusRow


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
    spec, segmenter = config.regions.settled(config.tiles), config.regions.segmenter()
    cohort_input = with_regions(cohort_input, spec, config.regions)
    tasks, refused = cohort_input.open_tasks(), cohort_input.refused
    if config.estimate.estimate:
        chosen = set(sample_slides(cohort_slides(cohort_input), config.estimate.estimate_slides))
        tasks = [task for task in tasks if task.slide_id in chosen]
        refused = tuple(row for row in refused if row.slide_id in chosen)
    outcome, inspections = inspect_all(
        tasks,
        spec,
        config.policy,
        config.decode,
        pictures,
        refused,
        segmenter,
        config.regions.tile_size_l0_px,
    )
    print(outcome.summary())
    if config.estimate.estimate:
        print("\n".join(_estimate(config, cohort_input, tasks, inspections)))
    return FlowResult(exit_code=config.failures.exit_code_of(outcome))


def _estimate(
    config: CheckConfig,
    cohort_input: CohortInput,
    tasks: Sequence[SlideTask],
    inspections: Mapping[SlideId, SlideInspection],
) -> Sequence[str]:
    """What the cohort would cost, in lines. Raises EncoderError; InputError if no slide is there."""
    slides = cohort_slides(cohort_input)
    (encoder,) = config.encoder.each()
    warn_of_scale(encoder, config.tiles)
    card = settled_card(encoder, config.tiles, None, on_gpu=False)
    tiles_per_s = config.estimate.encoder_tiles_per_s
    source = "as given"
    if tiles_per_s is None:
        tiles_per_s = measured_tiles_per_s(card, config.tiles.tile_px, encoder.weights_of(card.id))
        source = f"measured here, {card.runtime}, {card.num_threads} thread"
    sampled = {
        task.slide_id: SampledSlide(look.num_tiles, look.plan_s, look.read_s, look.num_read)
        if (look := inspections.get(task.slide_id)) is not None
        else SampledSlide(0, 0.0, 0.0, 0)
        for task in tasks
    }
    estimate = estimated(slides, sampled, dim=card.dim, encoder_tiles_per_s=tiles_per_s, prices=config.prices)
    num_absent = len(cohort_input.cohort.rows) - len(slides)
    absent = [f"  {num_absent:,} slides whose file is missing are left out"] if num_absent else []
    speed = f"{tiles_per_s:,.0f} tiles/s, {source}"
    return [*estimate_lines(estimate, encoder=card.id, measured=speed), *absent]


def inspect_all(
    tasks: Sequence[SlideTask],
    spec: TileSpec,
    policy: SlidePolicy,
    keys: DecodeKeys,
    pictures: Storage | None = None,
    refused: Sequence[StatusRow] = (),
    segmenter: SegmenterFile | None = None,
    tile_size_l0_px: int | None = None,
) -> tuple[Outcome, dict[SlideId, SlideInspection]]:
    """Inspect the slides in a child process, as a broken decoder must not end the check; print a line each.

    `refused`: slides that failed without being opened. The inspections are those of the slides that can be embedded.
    """
    staging_dir = keys.staging_dir or None
    decode = partial(
        _inspect,
        spec=spec,
        policy=policy,
        staging_dir=staging_dir,
        segmenter=segmenter,
        tile_size_l0_px=tile_size_l0_px,
        remote=keys.remote(),
        with_picture=pictures is not None,
    )
    decoder = Decoder(decode, keys.decode_timeout_s, STAGING_TIMEOUT_S, staging_sweep(staging_dir))
    rows: list[StatusRow] = list(refused)
    for row in rows:
        print(f"{row.slide_id}: {row.reason}: {one_line(row.message)}", flush=True)
    inspections: dict[SlideId, SlideInspection] = {}
    try:
        for task, stream in zip(tasks, decoder.streams(tasks), strict=True):
            result = _inspection(stream)
            if isinstance(result, SlideInspection):
                inspections[task.slide_id] = result
            rows.append(_row(task, result, pictures))
            print(f"{task.slide_id}: {one_line(rows[-1].message)}", flush=True)
    finally:
        decoder.close()
    slide_ids = [task.slide_id for task in tasks] + [row.slide_id for row in refused]
    return reconcile(slide_ids, rows), inspections


def _inspection(stream: JobStream) -> SlideInspection | SlideError:
    while True:
        try:
            (inspection,) = stream
        except RetrySlide:
            continue
        except SlideError as error:
            return error
        assert isinstance(inspection, SlideInspection)
        return inspection


def _row(task: SlideTask, result: SlideInspection | SlideError, pictures: Storage | None) -> StatusRow:
    if isinstance(result, SlideError):
        return StatusRow(task.slide_id, Status.FAILED, result.reason, "check", type(result).__name__, str(result))
    if pictures is not None and result.picture is not None:
        pictures.put(f"{task.slide_id}.jpg", result.picture)
    status = Status.OK if result.num_tiles else Status.EMPTY
    return StatusRow(task.slide_id, status, message=_describe(result), num_tiles=result.num_tiles)


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
    task: SlideTask,
    *,
    spec: TileSpec,
    policy: SlidePolicy,
    staging_dir: str | None,
    segmenter: SegmenterFile | None,
    tile_size_l0_px: int | None,
    remote: RemoteOptions,
    with_picture: bool,
) -> Iterator[AtHand | SlideInspection]:
    with at_hand(task, staging_dir, remote_for(remote, spec.backend)) as slide:
        yield AtHand()
        files = region_files(task, segmenter, tile_size_l0_px)
        yield inspect_slide(
            slide.path,
            slide.task,
            spec=spec,
            policy=policy,
            files=files,
            with_picture=with_picture,
            ranged=slide.ranged,
        )
