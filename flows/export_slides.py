"""mhim export geojson run=runs/first out=./qupath: what the models made of each slide, as objects for QuPath.
mhim export heatmap run=runs/first out=./heatmaps: the same as pyramidal OME-TIFF in the slide's own pixels.

Inputs: a run (evaluated first if necessary) or the out= of mhim predict, the features; for the tissue's outline the
slides. Outputs, in out: <slide_id>.geojson (docs/explanation.md) or <slide_id>.ome.tif, a folder in `reports/`. What is
there with the same bytes is left, anything else is refused. Cost: a pass of the models over each slide for the
evidence, a second a slide for the tissue; a heat map of a large slide at downsample=1 takes minutes.
Exit code: 0, 3 (some slides failed), 4 (more than max_failed_fraction), 2, 5 (out holds something else), 6.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cluster.storage import download, open_storage
from flows.config.files import write_resolved
from flows.config.slide_exports import GeojsonConfig, HeatmapConfig, HeatmapStyle
from flows.engine.result import FlowResult
from flows.prediction.attended import AttendedBag, AttendedSlide, AttendedSource, attended_source
from flows.runs.embed_report import MAX_LINES, failed_table, new_report
from mhim_core.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, SlideError
from mhim_core.fingerprint import canonical_json
from mhim_core.outcome import Outcome, reconcile
from mhim_core.printable import counted, first_of, one_line
from mhim_core.storage import Storage
from mhim_core.task import TaskKind
from mhim_core.types import FailureReason, Status, StatusRow

if TYPE_CHECKING:  # numpy and more: --help reads nothing of it
    from mhim_core.evaluation.slide_objects import AttendedTiles


def geojson(config: GeojsonConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5), StorageError (6)."""
    source, out = attended_source(config.source, config.chosen, config.plugin), open_storage(config.out)
    suffix = ".geojson.gz" if config.gzip else ".geojson"
    without_tissue: list[str] = []

    if config.foci:
        _check_foci(source)

    def write(bag: AttendedBag, slide: AttendedSlide, evidence: Any) -> tuple[str, bytes]:
        from mhim_core.slides.qupath import encode_objects

        tiles = _attended_tiles(source, slide, evidence)
        objects = [*_tissue(config, source, slide, without_tissue), *_objects(config, tiles)]
        objects += _foci(config, source, bag, slide, tiles)
        return f"{slide.table.slide_id}{suffix}", encode_objects(objects, compressed=config.gzip)

    result = _export(config, "export geojson", source, out, config.evidence, write)
    if without_tissue:
        print(f"without the tissue's outline: {first_of(without_tissue, MAX_LINES)}")
    return result


def heatmap(config: HeatmapConfig) -> FlowResult:
    """Raises as `geojson`."""
    source, out = attended_source(config.source, config.chosen, config.plugin), open_storage(config.out)
    is_values = config.style is HeatmapStyle.values

    def write(_: AttendedBag, slide: AttendedSlide, evidence: Any) -> tuple[str, bytes]:
        from mhim_core.report.heatmap import percentile_rank
        from mhim_core.report.ome_heatmap import HeatmapSlide, colour_heatmap, value_heatmap

        attention_N = slide.attention.attention
        facts = HeatmapSlide(
            coords_l0_px=slide.table.coords_l0_px,
            tile_size_l0_px=slide.tile_size_l0_px,
            slide_size_l0_px=slide.size_l0_px,
            mpp=slide.mpp,
            name=str(slide.table.slide_id),
        )
        rank_N = percentile_rank(attention_N)
        if not is_values:
            return f"{slide.table.slide_id}.ome.tif", colour_heatmap(facts, rank_N, downsample=config.downsample)
        channels = {"attention": attention_N, "attention rank": rank_N}
        channels |= {f"evidence {label}": each for label, each in _by_class(source, evidence).items()}
        return f"{slide.table.slide_id}.ome.tif", value_heatmap(facts, channels, downsample=config.downsample)

    return _export(config, "export heatmap", source, out, is_values and config.evidence, write)


def _export(
    config: GeojsonConfig | HeatmapConfig,
    command: str,
    source: AttendedSource,
    out: Storage,
    with_evidence: bool,
    write: Callable[[AttendedBag, AttendedSlide, Any], tuple[str, bytes]],
) -> FlowResult:
    """A file for every slide, and the report of those that failed."""
    slide_ids = [slide_id for bag in source.bags for slide_id in bag.slide_ids]
    wants_evidence = with_evidence and source.task.kind is TaskKind.classification
    rows: list[StatusRow] = []
    num_new = num_without = 0
    for bag in source.bags:
        try:
            evidence = source.evidence(bag) if wants_evidence else None
            num_without += wants_evidence and evidence is None
            for slide in source.slides(bag):
                slide_id = slide.table.slide_id
                num_new += _put(out, *write(bag, slide, None if evidence is None else evidence[slide_id]))
                rows.append(StatusRow(slide_id, Status.OK, num_tiles=len(slide.table.coords_l0_px)))
        except (SlideError, IntegrityError, NotFoundError) as error:
            rows.extend(_failed(bag, rows, error))
    if num_without:
        print(f"{counted(num_without, 'bag')} without evidence by class: the aggregator weighs no single tiles")
    if with_evidence and not wants_evidence:
        print(f"no evidence by class: the task is {source.task.kind}")
    outcome = reconcile(slide_ids, rows)
    for row in outcome.failed[:MAX_LINES]:
        print(one_line(f"  {row.slide_id}: {row.reason}: {row.message}"))
    print(f"{outcome.summary()}: {counted(num_new, 'file')} written to {out.uri}")
    folder = _write_report(config, command, source, outcome, out)
    print(f"report: {out.locate(folder)}")
    return FlowResult(
        exit_code=outcome.exit_code(config.max_failed_fraction),
        outputs={"out": out.uri, "report": out.locate(folder)},
        recomputed=num_new > 0,
    )


def _failed(bag: AttendedBag, done: list[StatusRow], error: Exception) -> Iterator[StatusRow]:
    """A row for every slide of the bag that has none yet."""
    reason = error.reason if isinstance(error, SlideError) else FailureReason.READ
    message = error.message if isinstance(error, SlideError) else str(error)
    known = {row.slide_id for row in done}
    for slide_id in bag.slide_ids:
        if slide_id not in known:
            yield StatusRow(slide_id, Status.FAILED, reason, "open", type(error).__name__, message)


def _by_class(source: AttendedSource, evidence: Any) -> dict[str, Any]:
    """(N,) by class, relative to the mean over classes."""
    from mhim_core.evaluation.slide_objects import centred

    return {} if evidence is None else dict(zip(source.task.classes, centred(evidence).T, strict=True))


def _attended_tiles(source: AttendedSource, slide: AttendedSlide, evidence: Any) -> "AttendedTiles":
    from mhim_core.evaluation.slide_objects import AttendedTiles

    return AttendedTiles(
        coords_l0_px=slide.table.coords_l0_px,
        tile_size_l0_px=slide.tile_size_l0_px,
        attention_N=slide.attention.attention,
        mpp=slide.mpp,
        evidence=_by_class(source, evidence),
    )


def _objects(config: GeojsonConfig, tiles: "AttendedTiles") -> list[Any]:
    from mhim_core.evaluation.slide_objects import attended_areas, evidence_areas, top_tiles

    shares = config.share_list()
    return [*attended_areas(tiles, shares), *evidence_areas(tiles, shares), *top_tiles(tiles, config.top_tiles)]


def _check_foci(source: AttendedSource) -> None:
    if source.task.kind is not TaskKind.classification or any(len(bag.slide_ids) > 1 for bag in source.bags):
        raise ConfigError("foci= is of classifications whose bags are slides; leave it out")


def _foci(
    config: GeojsonConfig, source: AttendedSource, bag: AttendedBag, slide: AttendedSlide, tiles: "AttendedTiles"
) -> list[Any]:
    """The foci of the class that is predicted from all tiles."""
    if not config.foci:
        return []
    from mhim_core.evaluation.discovery import find_foci
    from mhim_core.evaluation.slide_objects import focus_objects
    from mhim_core.train.asking import AskedBag

    asked = AskedBag([slide.table], source.voters_of(bag.fold))
    foci = find_foci(slide.table.coords_l0_px, slide.tile_size_l0_px, asked)[: config.foci]
    label = source.task.classes[int(asked.prediction.outputs.argmax())]
    return list(focus_objects(tiles, foci, label))


def _tissue(config: GeojsonConfig, source: AttendedSource, slide: AttendedSlide, without: list[str]) -> Iterator[Any]:
    """The tissue's object, or the slide's name and the reason in `without`."""
    if not config.tissue:
        return
    from mhim_core.evaluation.slide_objects import tissue_object
    from mhim_core.slides.reader import open_slide
    from mhim_core.slides.spec import TileSpec, TissueMethod
    from mhim_core.slides.staging import staged
    from mhim_core.slides.tissue import find_tissue

    spec, slide_id = source.spec or TileSpec(), slide.table.slide_id
    if spec.tissue in (TissueMethod.mask, TissueMethod.file):
        without.append(f"{slide_id} (its tissue is of tissue={spec.tissue.value})")
        return
    uri = source.uri_of(slide_id)
    if uri is None:
        without.append(f"{slide_id} (the cohort table does not have it)")
        return
    try:
        with staged(uri, download) as path, open_slide(path, spec.backend) as reader:
            size, mpp = (reader.info().width_l0_px, reader.info().height_l0_px), slide.mpp
            if all(slide.size_l0_px) and size != slide.size_l0_px:
                raise SlideError(FailureReason.OPEN, f"its file is of another size now, {size[0]} × {size[1]}")
            if mpp is None:
                raise SlideError(FailureReason.NO_MPP, "its features do not state its µm/px")
            found = find_tissue(reader, mpp, spec)
        yield from tissue_object(found.mask, mpp, size)
    except (SlideError, NotFoundError) as error:
        without.append(one_line(f"{slide_id} ({error})"))


def _put(out: Storage, key: str, data: bytes) -> bool:
    """False: it is there already with these bytes. Raises ConflictError for others."""
    if out.put_if_absent(key, data):
        return True
    if out.get(key) != data:
        raise ConflictError(f"{out.locate(key)} is there already, with another content; choose another out=")
    return False


def _write_report(
    config: GeojsonConfig | HeatmapConfig, command: str, source: AttendedSource, outcome: Outcome, out: Storage
) -> str:
    folder = new_report()
    summary = {
        "command": command,
        "by": source.origin,
        "num_input": len(outcome.rows),
        "counts": {status.value: outcome.count(status) for status in Status},
        "failures_by_reason": outcome.reasons,
    }
    out.put(f"{folder}/summary.json", canonical_json(summary))
    out.put(f"{folder}/failed.csv", failed_table(outcome))
    write_resolved(out, config, command, folder)
    return folder
