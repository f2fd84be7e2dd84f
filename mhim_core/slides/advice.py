"""What a file is that no backend reads, by its first bytes and its name, and what to do about it: a sentence."""

from pathlib import Path

HEAD_BYTES = 512
_AGAIN = "copy or download the slide again"
_CONVERT = "make a slide of it: vips tiffsave IN OUT.tiff --tile --pyramid --Q 90, and give its mpp in the cohort table"
_EXPORT = (
    "export it as OME-TIFF, 8-bit RGB with tiles, from the scanner's own software or with "
    "bioformats2raw and raw2ometiff"
)

_BY_HEAD: tuple[tuple[int, bytes, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "it is a Git LFS pointer, not the slide: run git lfs pull where it was checked out",
    ),
    (0, b"%PDF", "it is a PDF; " + _EXPORT.replace("it", "the slide", 1)),
    (0, b"PK\x03\x04", "it is a zip archive: unpack it, and name the slide (or the .zarr folder) in it"),
    (0, b"\x1f\x8b", "it is a gzip archive: unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "it is a 7z archive: unpack it"),
    (0, b"Rar!", "it is a RAR archive: unpack it"),
    (257, b"ustar", "it is a tar archive: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it"),
    (0, b"\x70\x00\x00\x00", "it may be a Leica LIF, whose pictures are no whole slides here; " + _EXPORT),
    (0, b"\x89HDF", "it is an HDF5 file, which holds no slide that is read here; " + _EXPORT),
    (0, b"8BPS", "it is a Photoshop picture; " + _CONVERT),
    (0, b"BM", "it is a BMP picture; " + _CONVERT),
    (0, b"GIF8", "it is a GIF picture; " + _CONVERT),
    (0, b"\x00\x00\x00\x0cjP", "it is a JPEG 2000 picture; " + _CONVERT),
    (0, b"\xff\x4f\xff\x51", "it is a JPEG 2000 picture; " + _CONVERT),
    (4, b"ftyp", "it is a HEIC, AVIF or film file; " + _CONVERT),
    (8, b"WEBP", "it is a WebP picture; " + _CONVERT),
    (
        128,
        b"DICM",
        "it is a DICOM file that is no whole-slide image, or parts of the slide are missing: all its files must lie in "
        "one folder, and the cohort names one of them",
    ),
)
_BY_SUFFIX = {
    ".mrxs": "a .mrxs slide is the file and the folder of the same name beside it, with Slidedat.ini: copy both",
    ".vms": "a .vms slide is the file and the JPEGs that it names, beside it: copy all",
    ".vmu": "a .vmu slide is the file and those that it names, beside it: copy all",
    ".vsi": "a .vsi slide is the file and the folder _NAME_ beside it, with the .ets files: copy both",
    ".czi": "it does not begin as a CZI does; " + _AGAIN,
    ".isyntax": "it does not begin as an iSyntax does; " + _AGAIN,
    ".i2syntax": "Philips' i2syntax is read by Philips' own software alone; " + _EXPORT,
    ".lif": "Leica LIF is not read; " + _EXPORT,
    ".nd2": "Nikon ND2 is not read; " + _EXPORT,
    ".oir": "Olympus OIR is not read; " + _EXPORT,
    ".ets": "it is a part of a .vsi slide: name the .vsi file",
    ".sdpc": "SDPC is read by its maker's software alone; " + _EXPORT,
    ".kfb": "KFB is read by its maker's software alone; " + _EXPORT,
    ".mds": "MDS is read by its maker's software alone; " + _EXPORT,
    ".tmap": "TMAP is read by its maker's software alone; " + _EXPORT,
    ".qptiff": "of QPTIFF, bright-field scans alone are read: fluorescence has other channels",
}
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def advice(path: Path) -> str:
    """Why the file is not read and what to do, for people; empty: nothing is known of it. Names no path."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return ""
    if not head:
        return "the file is empty; " + _AGAIN
    if not head.strip(b"\x00"):
        return f"the file begins with {len(head)} zeros, as one does whose copy broke off; {_AGAIN}"
    if text := _of_text(head):
        return text
    if head.startswith(b"ZISRAWFILE") or b"<DataObject" in head or _has_companion(path):
        return ""  # its reader knows better
    suffix = _BY_SUFFIX.get(path.suffix.lower(), "")
    if head.startswith(_TIFF):
        return suffix
    if path.suffix.lower() == ".mrxs":  # which is a picture by its first bytes
        return suffix
    for offset, magic, sentence in _BY_HEAD:
        if head[offset:].startswith(magic):
            return sentence
    if suffix:
        return suffix
    if _is_text(head):
        return f"it is text, and no slide; {_AGAIN}"
    return ""


def folder_advice(path: Path) -> str:
    """The same of a folder that is no slide."""
    try:
        names = {entry.name.lower() for entry in path.iterdir()}
    except OSError:
        return "check the cohort's path"
    if "slidedat.ini" in names:
        return "it holds a .mrxs slide's pictures: name the .mrxs file beside it"
    if any(name.endswith(".dcm") for name in names):
        return "of a slide's DICOM files, name one"
    if any(name.endswith(".ets") for name in names) or path.name.startswith("_"):
        return "it may hold a .vsi slide's pictures: name the .vsi file beside it"
    return "check the cohort's path"


def _has_companion(path: Path) -> bool:
    """Whether the folder is there that such a slide's pictures are in."""
    folder = {".mrxs": path.stem, ".vsi": f"_{path.stem}_"}.get(path.suffix.lower())
    return folder is not None and path.with_name(folder).is_dir()


def _of_text(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page under a slide's name, such as a login page; log in, and download the slide again"
    if start.startswith(b"<?xml") and b"<error>" in start:
        return "it is an object store's error message under a slide's name; download the slide again"
    if start.startswith(b"{") and _is_text(head):
        return "it is JSON under a slide's name, such as a server's error message; download the slide again"
    return ""


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head)
