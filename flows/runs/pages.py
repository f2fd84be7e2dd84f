"""Writing a page: its pictures beside it, then the page itself, then away with pictures of an earlier one."""

from flows.config.keys import PageKeys
from mhim_core.report.pictures import EXTENSIONS, Pictures, PicturesBeside, PicturesInside
from mhim_core.storage import Storage
from mhim_core.store.parallel import map_all

PICTURES = "report"
"""The folder beside `report.html`."""


def pictures_for(keys: PageKeys, folder: str) -> Pictures:
    """Files in `folder`, beside the page, or with `single_file=true` none."""
    return PicturesInside() if keys.single_file else PicturesBeside(folder)


def write_page(storage: Storage, key: str, page: str, pictures: Pictures, folder: str) -> tuple[str, ...]:
    """The keys of its pictures. A reader never meets a page whose pictures are not there; those of an earlier page in
    `folder` that this one does not show are deleted, since they may be of slides that are to be gone."""
    files = pictures.files if isinstance(pictures, PicturesBeside) else {}
    map_all(lambda item: storage.put(*item), files.items())
    storage.put(key, page.encode())
    for entry in list(storage.list(folder)):
        if entry.key not in files and entry.key.rpartition(".")[2] in EXTENSIONS:
            storage.delete(entry.key)
    return tuple(sorted(files))
