"""Where a run's features are now: the store is recorded relative to the run's folder, so that both can be moved.

Runs of earlier versions recorded an absolute place. A store counts as the run's only if it holds the run's pinned
manifest, wherever it is.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cluster.storage import open_storage
from mhim_core.errors import InputError, NotFoundError
from mhim_core.fingerprint import sha256
from mhim_core.places import is_relative, join_place, moved_along, nearby_places, relative_place
from mhim_core.storage import Storage
from mhim_core.store.layout import manifest_key


class StorePlace(NamedTuple):
    """A run's store, opened."""

    storage: Storage
    is_own: bool
    """It is where the run recorded it, relative to the run: by naming the run, the command names this store too."""

    @property
    def uri(self) -> str:
        """A folder or `s3://bucket/prefix`."""
        return self.storage.uri


def recorded_places(run: Storage, store: Storage) -> dict[str, str]:
    """The places in a run's record: its own, and the store's relative to it (absolute if they share no folder)."""
    return {"store": relative_place(store.uri, run.uri) or store.uri, "place": run.uri}


def find_store(run: Storage, record: Mapping[str, Any], named: str = "", spare: str = "") -> StorePlace:
    """The store of a run. `named`: the only place to look; `spare`: tried if the run's own place has none.

    Prints a line if the store is not where the record says. Raises InputError (2) if no place holds the run's pinned
    manifest.
    """
    if named:
        store = open_storage(named)
        if _holds(store, record) is None:
            raise InputError(
                f"store={named} does not hold the features of {run.uri} (manifest version "
                f"{record['manifest']['version']} of feature set {record['identity']['feature_set'][:16]})"
            )
        return StorePlace(store, True)
    other: StorePlace | None = None
    for place in _candidates(run, record, spare):
        held = _holds(place.storage, record)
        if held:
            if not place.is_own:
                print(f"{run.uri} was moved: its features are read in {place.uri}, which holds its pinned manifest")
            return place
        if held is False and place.is_own:
            other = place  # a damaged or foreign manifest in the run's own place: for the reader to refuse
    if other is not None:
        return other
    raise InputError(
        f"the features of {run.uri} are gone: its store was {_recorded(record)}, and no folder near the run holds its "
        "pinned manifest; name the store with store="
    )


def moved_file(uri: str, run: Storage, record: Mapping[str, Any]) -> str:
    """Where a file of the run's project is now, if it was moved along; else its recorded place."""
    before = record.get("place")
    moved = None if before is None or before == run.uri else moved_along(uri, before, run.uri)
    if moved is None or moved == uri or not _is_file(moved):
        return uri
    return moved


def _candidates(run: Storage, record: Mapping[str, Any], spare: str) -> Iterator[StorePlace]:
    store = str(record["store"])
    if is_relative(store):
        yield StorePlace(open_storage(join_place(run.uri, store)), True)
        if spare:
            yield StorePlace(open_storage(spare), False)
        yield StorePlace(open_storage(_recorded(record)), False)
        return
    out = str(record.get("config", {}).get("out", ""))
    before = record.get("place") or ("" if is_relative(out) else out)
    yield StorePlace(open_storage(store), before in ("", run.uri))
    if spare:
        yield StorePlace(open_storage(spare), False)
    for place in dict.fromkeys(nearby_places(store, run.uri)):
        yield StorePlace(open_storage(place), False)


def _recorded(record: Mapping[str, Any]) -> str:
    """Where the store was when the run was started."""
    store = str(record["store"])
    return join_place(record["place"], store) if is_relative(store) else store


def _holds(store: Storage, record: Mapping[str, Any]) -> bool | None:
    """Whether the run's pinned manifest is there. None: no manifest is; False: another one is."""
    pin = record["manifest"]
    try:
        data = store.get(manifest_key(record["identity"]["feature_set"], pin["version"]))
    except NotFoundError:
        return None
    return sha256(data) == pin["sha256"]


def _is_file(uri: str) -> bool:
    return "://" not in uri and Path(uri).is_file()
