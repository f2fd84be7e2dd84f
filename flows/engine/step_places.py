"""Places in the records of steps: kept relative to the records' own folder, so that a project can move as a whole."""

from collections.abc import Mapping

from cluster.storage import open_storage
from mhim_core.errors import NotFoundError
from mhim_core.places import is_relative, join_place, relative_place


def relative_places(places: Mapping[str, str], folder: str) -> dict[str, str]:
    """What → where as seen from `folder`; a place that shares no folder with it stays absolute."""
    return {name: relative_place(place, folder) or place for name, place in places.items()}


def absolute_places(places: Mapping[str, str], folder: str, recorded_folder: str) -> dict[str, str]:
    """Where recorded places lie now that the records lie in `folder`; absolute ones are as earlier versions left them.

    If the records have moved and nothing lies where a place would have moved with them, it stayed behind: records and
    runs may be on different disks.
    """
    present = {}
    for name, place in places.items():
        present[name] = place
        if is_relative(place):
            moved, stayed = join_place(folder, place), join_place(recorded_folder, place)
            present[name] = moved if moved == stayed or _exists(moved) else stayed
    return present


def _exists(place: str) -> bool:
    """A folder with anything in it, or a file."""
    if next(open_storage(place).list(""), None) is not None:
        return True
    folder, _, name = place.rpartition("/")
    try:
        open_storage(folder or "/").get(name)
    except NotFoundError:
        return False
    return True
