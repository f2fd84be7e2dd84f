"""What of a slide in a bucket is fetched: bytes counted by the server, over those of its tiles with tissue."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import tifffile

from cluster.staging import decode_staged
from mhim_core.slides.backends.direct import DirectBackend
from mhim_core.slides.prepare import PreparedSlide, prepare_slide
from mhim_core.slides.ranged_file import Span, merged
from mhim_core.slides.remote import RemoteOptions, RemoteReads
from mhim_core.slides.source_identity import identity_blocks
from mhim_core.slides.spec import GLASS_RULE, SlidePolicy, TileSpec
from mhim_core.types import SlideId, SlideTask


class CountingBucket:
    """The files of a folder as objects of the bucket `slides`, for reading; `num_bytes` of bodies were sent so far."""

    def __init__(self, folder: Path) -> None:
        self.num_bytes = self.num_requests = 0
        bucket, counting = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                data = (folder / Path(self.path).name).read_bytes()
                start, stop = 0, len(data)
                if span := self.headers.get("Range"):
                    first, last = span.removeprefix("bytes=").split("-")
                    start, stop = int(first), min(stop, int(last) + 1)
                self.send_response(206 if span else 200)
                self.send_header("ETag", f'"{len(data):032x}"')
                self.send_header("Content-Length", str(stop - start))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data[start:stop])
                    with counting:
                        bucket.num_bytes += stop - start
                        bucket.num_requests += 1

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def counting_bucket(folder: Path) -> Iterator[CountingBucket]:
    """The environment is that of its user while the block runs."""
    with contextlib.closing(CountingBucket(folder)) as bucket:
        before = dict(os.environ)
        os.environ |= {
            "AWS_ENDPOINT_URL": bucket.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            yield bucket
        finally:
            os.environ.clear()
            os.environ.update(before)


def fetched(path: Path, mpp: float, target_mpp: float) -> dict[str, float]:
    """Ratios of the bytes that `mhim embed` fetches of the slide, by ranges."""
    spec, policy = TileSpec(target_mpp=target_mpp), SlidePolicy()
    task = SlideTask(SlideId("slide"), f"s3://slides/{path.name}", mpp)
    options = RemoteOptions(reads=RemoteReads.ranges)
    with counting_bucket(path.parent) as bucket, tempfile.TemporaryDirectory() as staging:
        for _ in decode_staged(task, spec=spec, policy=policy, staging_dir=staging, remote=options):
            pass
    with prepare_slide(path, mpp_override=mpp, spec=spec, policy=policy) as slide:
        tiles, picture = _tissue(slide), _picture(slide)
    num_bytes = path.stat().st_size
    header = _directories(path)
    before = [
        Span(block.offset, min(num_bytes, block.offset + block.num_bytes)) for block in identity_blocks(num_bytes)
    ]
    return {
        "range_bytes_over_tissue": bucket.num_bytes / _size([*tiles, *header, *picture, *before]),
        "range_bytes_over_tiles_and_directories": bucket.num_bytes / _size([*tiles, *header]),
        "range_bytes_over_file": bucket.num_bytes / num_bytes,
        "range_requests": float(bucket.num_requests),
    }


def _tissue(slide: PreparedSlide) -> list[Span]:
    backend, plan = _direct(slide), slide.plan
    return backend._tiles[plan.level].spans(backend._touched(plan.level, plan.coords_l0_px, plan.read_px))


def _picture(slide: PreparedSlide) -> list[Span]:
    tiles = _direct(slide)._tiles[slide.info.level_for(GLASS_RULE.mask_mpp / max(slide.mpp.x, slide.mpp.y))]
    return tiles.spans(np.ones((tiles.grid.rows, tiles.grid.columns), bool))


def _direct(slide: PreparedSlide) -> DirectBackend:
    backend = slide.reader._backend
    assert isinstance(backend, DirectBackend)
    return backend


def _directories(path: Path) -> list[Span]:
    with tifffile.TiffFile(path) as tiff:
        spans = [Span(0, 16)]
        for page in tiff.pages:
            spans.append(Span(page.offset, page.offset + 6 + 12 * len(page.tags)))  # type: ignore[union-attr]
            for tag in page.tags:  # type: ignore[union-attr]
                spans.append(Span(tag.valueoffset, tag.valueoffset + tag.valuebytecount))
    return spans


def _size(spans: list[Span]) -> int:
    return sum(span.num_bytes for span in merged(spans))
