"""mhim store ls store=./features; mhim store gc store=… [delete=true]; mhim store rm store=… slide=s17 [delete=true].

`ls` lists the feature sets of a store, or with `feature_set=` and its like the slides of one. `gc` lists what nobody
needs: feature files that no commit and no manifest names, temporary files of killed writers, failures of slides that
were committed later, probes; nothing younger than a day. `rm` takes slides out of all feature sets: commits, entries,
feature files, recorded failures. Without `delete=true`, `gc` and `rm` only say what would go. Inputs: the store; for
`rm patient=` the cohort table. Outputs: lines on the terminal; `rm` writes a version of each manifest and a mark that
names no slide. Cost: `ls` reads one manifest a feature set, `gc` lists the store, `rm` also reads every manifest.
Exit code: 0, 2 (no store, or nothing of the slides in it), 5 (a run is embedding them again), 6.
"""

import time
from collections.abc import Iterable, Sequence

from cluster.storage import open_storage, require_put_if_absent
from flows.config.keys import here
from flows.config.store import StoreGcConfig, StoreLsConfig, StoreRmConfig
from flows.engine.result import FlowResult
from flows.runs.cohort import load_cohort
from flows.runs.embed_report import MAX_LINES
from flows.runs.slide_traces import find_traces
from flows.runs.tiling import tiling_words
from mhim_core.errors import ConfigError, ConflictError, InputError
from mhim_core.fingerprint import neutral_values
from mhim_core.printable import one_line
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import Storage
from mhim_core.store.bag_cache import kept_bags
from mhim_core.store.contents import SetContents, list_contents
from mhim_core.store.feature_sets import FeatureSet, choose_feature_set
from mhim_core.store.garbage import GarbageFound, GarbageKind, find_garbage, remove_garbage
from mhim_core.store.layout import REPORTS, check_slide_id
from mhim_core.store.manifest import read_manifest
from mhim_core.store.removal import Holdings, find_holdings, remove_slides, were_removed
from mhim_core.types import SlideId


def ls(config: StoreLsConfig) -> FlowResult:
    """Raises InputError (2) where there is no store, or the choice of a feature set is open; StorageError (6)."""
    storage, choice = open_storage(config.store), config.features
    if choice.tiling or choice.encoder is not None or choice.feature_set is not None:
        feature_set = choose_feature_set(
            storage,
            encoder_id=choice.encoder,
            tiling=choice.tiling,
            fingerprint=choice.feature_set,
            neutral=neutral_values(TileSpec),
        )
        _print_slides(storage, feature_set)
    else:
        for contents in _contents_of(storage):
            print(one_line(_set_line(contents)))
        print(
            "as the newest manifests say; not looked at: files, and commits that these do not name (mhim store verify)"
        )
    return FlowResult(outputs={"store": storage.uri}, recomputed=False)


def gc(config: StoreGcConfig) -> FlowResult:
    """Raises InputError (2) where there is no store, StorageError (6)."""
    storage = open_storage(config.store)
    _contents_of(storage)
    found = find_garbage(storage)
    _print_garbage(found)
    num_removed = 0
    if config.delete:
        num_removed = remove_garbage(storage, found.objects)
        print(f"{num_removed} of {len(found.objects)} deleted")
    elif found.objects:
        print("nothing was deleted; delete=true does")
    return FlowResult(outputs={"store": storage.uri}, recomputed=num_removed > 0)


def rm(config: StoreRmConfig) -> FlowResult:
    """Raises InputError (2) where there is no store or nothing of the slides, ConflictError (5), StorageError (6)."""
    slide_ids = _slide_ids(config)
    storage = open_storage(config.store)
    _contents_of(storage)
    held = find_holdings(storage, slide_ids)
    if not (held.slide_ids or were_removed(storage, slide_ids)):
        raise InputError(f"{storage.uri} holds nothing of {', '.join(slide_ids)}; mhim store ls lists its slides")
    _print_holdings(held, slide_ids)
    is_removing = config.delete and (held.is_in_use or bool(config.older_manifests and held.older))
    left = held
    if config.delete:
        if is_removing:
            require_put_if_absent(storage)
        left = remove_slides(storage, slide_ids, older_manifests=config.older_manifests)
        if left.is_in_use:
            raise ConflictError(
                f"another command is embedding {', '.join(sorted(left.slide_ids))} into {storage.uri}: take the slides "
                "out of its table, wait until it has ended, and run mhim store rm again"
            )
        print("removed" if is_removing else "nothing was left to remove")
    _print_what_remains(left, held, storage, slide_ids, config)
    if not config.delete:
        print("nothing was removed; delete=true does")
    return FlowResult(outputs={"store": storage.uri}, recomputed=is_removing)


def _contents_of(storage: Storage) -> list[SetContents]:
    contents = list_contents(storage)
    if not contents:
        raise InputError(f"{storage.uri} holds no features; store= is the folder or prefix that mhim embed wrote")
    return contents


def _set_line(contents: SetContents) -> str:
    feature_set, totals = contents.feature_set, contents.totals
    words = [contents.fingerprint[:16]]
    if feature_set is not None:
        runtime = feature_set.encoder.get("runtime")
        made_by = f" by {runtime}" if runtime else ""
        words.append(f"{feature_set.encoder_id} (D={feature_set.dim}){made_by}")
        words += [tiling] if (tiling := tiling_words(feature_set)) else []
    if totals is not None:
        empty = f" ({totals.num_empty} without tissue)" if totals.num_empty else ""
        words.append(f"{totals.num_slides} slides{empty}, {totals.num_tiles:,} tiles, {totals.num_bytes:,} bytes")
    if contents.newest_s is not None:
        written = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(contents.newest_s))
        words.append(f"{len(contents.versions)} manifests, the newest {contents.versions[-1]} of {written}")
    else:
        words.append(f"no manifest yet, {contents.num_committed} slides committed: run mhim embed again")
    return "  ".join([*words, *([f"({contents.problem})"] if contents.problem else [])])


def _print_slides(storage: Storage, feature_set: FeatureSet) -> None:
    manifest = read_manifest(storage, feature_set.fingerprint)
    for record in manifest.entries.values():
        reading = record.reading
        counts = f"{record.num_tiles:,} tiles  {record.num_bytes:,} bytes"
        mpp = f"{reading.mpp.x:.4g} µm/px" if reading.mpp.x else "µm/px not stated"
        print(one_line(f"{record.slide_id}  {record.status}  {counts}  {mpp}  {reading.hint.uri}"))
    print(f"{len(manifest.entries)} slides by manifest {manifest.ref.version} of {feature_set.fingerprint[:16]}")


def _print_garbage(found: GarbageFound) -> None:
    for kind in GarbageKind:
        objects = found.of(kind)
        print(f"{kind}: {len(objects)}, {sum(item.num_bytes for item in objects):,} bytes")
        _print_some(item.key for item in objects)
    for sentence in found.unclear:
        print(one_line(f"kept: {sentence}"))


def _slide_ids(config: StoreRmConfig) -> tuple[SlideId, ...]:
    if bool(config.slide) == bool(config.patient):
        raise ConfigError("name what to remove, either by slide= or by patient= with cohort=")
    if bool(config.patient) != bool(config.cohort):
        raise ConfigError("patient= needs cohort=, the table that says which slides are the patient's, and only it")
    if config.slide:
        return tuple(dict.fromkeys(check_slide_id(SlideId(slide_id)) for slide_id in config.slide))
    cohort = load_cohort(config.cohort, with_files=False, options=config.table).cohort
    slide_ids = tuple(row.slide_id for row in cohort.rows if row.patient_id == config.patient)
    if not slide_ids:
        raise InputError(f"cohort={config.cohort} has no slide of patient {config.patient}")
    return slide_ids


def _print_holdings(held: Holdings, slide_ids: Sequence[SlideId]) -> None:
    num_bytes = sum(entry.num_bytes for entry in held.files)
    num_newest = len(held.manifests) - len(held.older)
    print(
        f"{len(held.slide_ids)} of {len(slide_ids)} slides: {len(held.commits)} commits, {len(held.files)} feature "
        f"files of {num_bytes:,} bytes, {len(held.failures)} recorded failures, {num_newest} entries of newest "
        f"manifests, {len(held.temporaries)} temporary files"
    )
    _print_some(entry.key for entry in (*held.commits, *held.files, *held.failures))
    if absent := [slide_id for slide_id in slide_ids if slide_id not in held.slide_ids]:
        print(f"not in this store (any more): {', '.join(absent[:MAX_LINES])}")


def _print_what_remains(
    left: Holdings, before: Holdings, storage: Storage, slide_ids: Sequence[SlideId], config: StoreRmConfig
) -> None:
    """What names the slides and is not removed, or is for people to remove."""
    for manifest in left.manifests if config.delete else before.manifests:
        fate = (
            "would be rewritten" if config.older_manifests else "is kept for its runs; older_manifests=true rewrites it"
        )
        print(f"manifest {manifest.version} of {manifest.feature_set[:16]} names them: it {fate}")
    for sentence in left.unreadable:
        print(one_line(f"an earlier manifest may name them: {sentence}"))
    _print_traces(storage, slide_ids, REPORTS)
    if config.run:
        _print_traces(open_storage(config.run), slide_ids, "")
    from mhim_core.mil.tissue_tree import TREE_NAME  # with numpy, which --help need not load

    digests = {entry.key.rpartition("/")[2].removesuffix(".parquet") for entry in before.files}
    for path in kept_bags(here(config.cache_dir), digests, (TREE_NAME,)):
        print(f"a copy of the features is {path}: end the training that uses it, and remove that file")
    print(
        "not known to a store, so look yourself: runs that were trained on the slides (their models have seen them; "
        "they are pinned to a manifest, and stop at features that are gone), their attention files, predictions and "
        "pages, with run=; bags that training keeps (cache=disk: has kept) in cache_dir= on other machines; the cohort "
        "table, or embed makes them again; backups, and earlier versions of objects in a bucket that keeps them"
    )


def _print_traces(storage: Storage, slide_ids: Sequence[SlideId], prefix: str) -> None:
    traces = find_traces(storage, frozenset(slide_ids), prefix)
    if traces:
        print(f"{len(traces)} files in {storage.locate(prefix) if prefix else storage.uri} still hold them:")
        _print_some(f"{trace.key}: {trace.what}" for trace in traces)


def _print_some(lines: Iterable[str]) -> None:
    shown = list(lines)
    for line in shown[:MAX_LINES]:
        print(one_line(f"  {line}"))
    if len(shown) > MAX_LINES:
        print(f"  and {len(shown) - MAX_LINES} more")
