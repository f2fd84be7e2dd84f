"""mhim view run=runs/first | predictions=predictions/new | store=./features [cohort=my.csv]: a viewer in the browser.

Inputs: a run (best evaluated), predictions or a store; the slides for their pictures (heat maps of slides that are gone
lie on white). Output: none but the annotations that are drawn, as GeoJSON in `annotations/` of the run or the
predictions, or where annotations= says. Serves on 127.0.0.1; on another address with a token. Cost: the lists are read
at the start, features and models when a slide is looked at. Ends at Ctrl-C.
Exit code: 0 (ended by Ctrl-C), 2 (nothing of the kind, or the port is taken), 6, 143 (SIGTERM).
"""

import errno
import os
import secrets
import socket

from cluster.storage import open_storage
from flows.config.view import ViewConfig
from flows.engine.result import FlowResult
from flows.engine.signals import Terminated
from flows.viewing.opening import open_source
from flows.viewing.source import Source
from mhim_core.errors import ConfigError, InputError
from mhim_core.printable import one_line
from mhim_core.storage import Storage

TOKEN = "MHIM_VIEW_TOKEN"
_GRACE_S = 2


def run(config: ViewConfig) -> FlowResult:
    """Raises ConfigError (2) for a port or address that cannot be had, InputError (2), StorageError (6)."""
    try:
        import uvicorn

        from flows.viewing.app import Viewer, ViewerOptions, make_app
        from flows.viewing.guard import LOCAL_NAMES
    except ImportError as error:
        raise InputError("mhim view needs starlette and uvicorn: pip install 'mhim[view]'") from error

    source = open_source(config)
    token = config.token or os.environ.get(TOKEN, "") or ("" if config.is_local else secrets.token_urlsafe(24))
    names = LOCAL_NAMES if config.is_local else None
    options = ViewerOptions(config.read_only, token, names, config.answer_within_s)
    app = make_app(Viewer(source, _annotations(config, source), options))
    with _listening(config) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S, ws="none")
        )
        address = _address(config, listener, token)
        print(one_line(f"{source.title}: {source.worklist.facets.num_slides} slides"))
        print(f"view: {address} (Ctrl-C ends it)", flush=True)
        try:
            server.run(sockets=[listener])
        except Terminated:
            raise
        except KeyboardInterrupt:
            print("ended")
    return FlowResult(outputs={"view": address}, recomputed=False)


def _annotations(config: ViewConfig, source: Source) -> Storage | None:
    """Where annotations are; None: a store is looked at, in which nothing is kept beside features."""
    if config.annotations:
        return open_storage(config.annotations)
    return None if source.kind == "store" else open_storage(source.storage.locate("annotations"))


def _listening(config: ViewConfig) -> socket.socket:
    """Raises ConfigError where the address cannot be had."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(found[0], found[1])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(found[4])
            listener.listen()  # whoever reads the address may ask at once, and waits until it is served
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port={config.port} is taken by another program; choose another, or port=0") from error
        raise ConfigError(f"host={config.host} port={config.port} cannot be served on: {error.strerror}") from error


def _address(config: ViewConfig, listener: socket.socket, token: str) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"http://{host}:{listener.getsockname()[1]}/"
    return address + (f"?token={token}" if token else "")
