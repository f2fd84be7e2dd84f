"""CPU seconds for what a run asks of a bucket before its first slide: its commits, and where the slides are.

    python benchmarks/list_bucket.py [slides]

A server on the loopback (another process) answers listings at once, with pages of a thousand, so that no latency of a
store is in it: a real one adds some 0.1 s a page. Prints a table.
"""

import os
import subprocess
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = 1000


def page(prefix: str, start: int, num_objects: int) -> bytes:
    """One reply to ListObjectsV2."""
    end = min(num_objects, start + PAGE)
    items = "".join(
        f"<Contents><Key>{prefix}slide-{index:07}.svs</Key>"
        "<LastModified>2026-11-28T01:02:03.000Z</LastModified>"
        f"<ETag>&quot;{index:032x}&quot;</ETag><Size>1234</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for index in range(start, end)
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{end}</NextContinuationToken>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name>{more if end < num_objects else '<IsTruncated>false</IsTruncated>'}{items}</ListBucketResult>"
    ).encode()


def serve(num_objects: int) -> None:
    """Print the port, and answer for ever."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
            start = int(query.get("continuation-token", ["0"])[0])
            body = page(query.get("prefix", [""])[0], start, num_objects)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def main() -> None:
    """List commits and slides."""
    num_objects = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    command = [sys.executable, __file__, "--serve", str(num_objects)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        from cluster.storage import S3Storage, object_hints

        uris = [f"s3://b/slides/slide-{index:07}.svs" for index in range(num_objects)]
        print(f"| {num_objects} objects | CPU s |\n|---|---|")
        for name, ask in {
            "commits listed": lambda: sum(1 for _ in S3Storage("b", "store").list("commits")),
            "slides seen": lambda: len(object_hints(uris)),
        }.items():
            start_s = time.process_time()
            assert ask() == num_objects
            print(f"| {name} | {time.process_time() - start_s:.1f} |")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    serve(int(sys.argv[2])) if sys.argv[1:2] == ["--serve"] else main()
