"""The viewer's routes: thin; what they answer is made in `slides` and in the core's `view`."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.viewing.guard import Guard
from flows.viewing.jobs import Jobs, SlowError
from flows.viewing.slides import SlideAnswers, row_facts, stage, task_facts
from flows.viewing.source import Source
from flows.viewing.static_files import INDEX, static_files
from mhim_core.errors import ConflictError, InputError, MhimError, NotFoundError, SlideError, StorageError
from mhim_core.printable import one_line
from mhim_core.records import parse_json
from mhim_core.storage import Storage
from mhim_core.types import SlideId
from mhim_core.view.annotations import MAX_BYTES, Annotations
from mhim_core.view.readers import ReaderPool
from mhim_core.view.worklist import WorklistQuery

_JPEG, _PACKED = "image/jpeg", "application/octet-stream"
_MAX_QUERY_BYTES = 2**20
_CACHED = {"cache-control": "private, max-age=3600"}
"""Of pictures: a slide's file does not change while it is looked at."""

_STAND_IN = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 56 44"><rect x=".5" y=".5" width="55" height="43" rx="3" '
    'fill="#f1f2f4" stroke="#a9b2bc" stroke-dasharray="3 2"/><text x="28" y="26" font-family="sans-serif" '
    'font-size="10" text-anchor="middle" fill="#5b6875">{}</text></svg>'
)


def _lane(slide_id: Hashable) -> str:
    """Pictures of one slide are made one or two at a time."""
    return f"slide {slide_id}"


Answer = Callable[[Request], Awaitable[Response]]


class ViewerOptions(NamedTuple):
    """How the viewer serves."""

    read_only: bool = False
    token: str = ""
    names: tuple[str, ...] | None = None
    """Hosts by which it may be asked for; None: any."""
    answer_within_s: float = 20.0


class Viewer:
    """A source with what its pages need."""

    def __init__(self, source: Source, annotations: Storage | None, options: ViewerOptions) -> None:
        self.source, self.options = source, options
        self.annotations = None if annotations is None else Annotations(annotations)
        self.pool = ReaderPool(stage)
        self.slides = SlideAnswers(source, self.pool)
        self.jobs = Jobs(options.answer_within_s)

    @property
    def can_save(self) -> bool:
        """Whether annotations can be changed."""
        return self.annotations is not None and not self.options.read_only

    async def kept(self, *key: Hashable, job: Callable[[], Any]) -> Any:
        """The answer to a question whose answer does not change."""
        return await self.jobs.answer(key, job, _lane(key[1]) if len(key) > 1 else "")


def make_app(viewer: Viewer) -> Starlette:
    """The application. Closing it closes the slides."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        warm = viewer.jobs.once(lambda: importlib.import_module("mhim_core.slides.file_layout"))
        task = asyncio.ensure_future(
            warm
        )  # the readers' imports take a second, which the first slide need not wait for
        try:
            yield
        finally:
            task.cancel()
            viewer.jobs.close()
            viewer.pool.close()

    slide = "/api/slides/{slide_id}"
    routes = [
        Route("/", _index),
        Route("/static/{path:path}", _static),
        Route("/api/about", _about(viewer)),
        Route("/api/worklist", _worklist(viewer), methods=["POST"]),
        Route(slide, _facts(viewer)),
        Route(f"{slide}/picture", _picture(viewer)),
        Route(f"{slide}/thumbnail.jpg", _thumbnail(viewer)),
        Route(f"{slide}/dz/{{level:int}}/{{column:int}}/{{row:int}}.jpg", _deep_zoom(viewer)),
        Route(f"{slide}/outline", _outline(viewer)),
        Route(f"{slide}/places", _places(viewer)),
        Route(f"{slide}/heat", _heat(viewer)),
        Route(f"{slide}/mined", _mined(viewer)),
        Route(f"{slide}/tiles/{{index:int}}", _tile(viewer)),
        Route(f"{slide}/tiles/{{index:int}}.jpg", _tile_picture(viewer)),
        Route(f"{slide}/tiles/{{index:int}}/nearest", _nearest(viewer)),
        Route(f"{slide}/annotation", _annotation(viewer), methods=["GET", "POST"]),
        Route(f"{slide}/annotation.geojson", _export(viewer)),
    ]
    options = viewer.options
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, names=options.names, token=options.token)],
        exception_handlers={
            MhimError: _failed,
            SlowError: _failed,
            404: _not_found,
        },
        lifespan=lifespan,
    )


async def _failed(request: Request, error: Exception) -> Response:
    """One sentence, and a code that says whose matter it is."""
    codes = ((NotFoundError, 404), (ConflictError, 409), (InputError, 400), (SlideError, 424), (SlowError, 504))
    status = next((code for kind, code in codes if isinstance(error, kind)), 502)
    facts: dict[str, Any] = {"error": one_line(error.message if isinstance(error, SlideError) else str(error))}
    if isinstance(error, SlideError):
        facts["reason"] = error.reason.value
    if isinstance(error, SlowError):
        facts["slow"] = True
    return JSONResponse(facts, status)


async def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "there is nothing at this address"}, 404)


async def _index(request: Request) -> Response:
    return _file(request, INDEX)


async def _static(request: Request) -> Response:
    return _file(request, request.path_params["path"])


def _file(request: Request, path: str) -> Response:
    file = static_files().get(path)
    if file is None:
        raise NotFoundError("there is no such file of the viewer")
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)


def _about(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        source = viewer.source
        return JSONResponse(
            {
                "title": source.title,
                "kind": source.kind,
                "task": task_facts(source),
                "notes": list(source.notes),
                "facets": source.worklist.facets._asdict(),
                "can_save": viewer.can_save,
                "annotations": "" if viewer.annotations is None else viewer.annotations.uri,
                "version": _version(),
            }
        )

    return answer


def _version() -> str:
    from importlib.metadata import version

    return version("mhim")


def _worklist(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        asked = await _body(request, _MAX_QUERY_BYTES)
        only = asked.pop("only", None)
        try:
            query = WorklistQuery(**asked, only=None if only is None else frozenset(map(str, only)))
        except TypeError as error:
            raise InputError(f"this is no query of the worklist: {error}") from error
        page = await viewer.jobs.once(lambda: viewer.source.worklist.page(query))
        rows = [row_facts(row) for row in page.rows]
        return JSONResponse({"rows": rows, "num_found": page.num_found, "offset": page.offset})

    return answer


def _facts(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id = request.path_params["slide_id"]
        facts = await viewer.kept("facts", slide_id, job=lambda: viewer.slides.facts(slide_id))
        return JSONResponse(facts)

    return answer


def _picture(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id = request.path_params["slide_id"]
        return JSONResponse(await viewer.jobs.once(lambda: viewer.slides.picture_facts(slide_id), _lane(slide_id)))

    return answer


def _thumbnail(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id = request.path_params["slide_id"]
        job = viewer.kept("thumbnail", slide_id, job=lambda: viewer.slides.thumbnail(slide_id))
        return await _picture_or_stand_in(request, job)

    return answer


async def _picture_or_stand_in(request: Request, job: Awaitable[bytes]) -> Response:
    """A JPEG; for a page that wants one (`stand_in=1`) a drawing that says so where the slide cannot be read."""
    try:
        return Response(await job, media_type=_JPEG, headers=_CACHED)
    except (SlideError, StorageError, SlowError) as error:
        if isinstance(error, NotFoundError) or "stand_in" not in request.query_params:
            raise
        words = "slow" if isinstance(error, SlowError) else "no file"
        return Response(_STAND_IN.format(words), media_type="image/svg+xml")


def _deep_zoom(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        place = request.path_params
        numbers = place["level"], place["column"], place["row"]
        slide_id = place["slide_id"]
        data = await viewer.jobs.once(lambda: viewer.slides.tile(slide_id, *numbers), _lane(slide_id))
        return Response(data, media_type=_JPEG, headers=_CACHED)

    return answer


def _outline(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id = request.path_params["slide_id"]
        return JSONResponse(await viewer.kept("outline", slide_id, job=lambda: viewer.slides.outline(slide_id)))

    return answer


def _places(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id = request.path_params["slide_id"]
        data = await viewer.jobs.once(lambda: viewer.slides.places(slide_id))
        return Response(data, media_type=_PACKED)

    return answer


def _heat(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id, model = request.path_params["slide_id"], request.query_params.get("model", "")
        data = await viewer.jobs.once(lambda: viewer.slides.heat(slide_id, model))
        return Response(data, media_type=_PACKED)

    return answer


def _mined(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id, asked = request.path_params["slide_id"], request.query_params
        seed, fold, epoch = (_number(asked, name) for name in ("seed", "fold", "epoch"))
        teacher = asked.get("teacher", "")
        # kept: a page that asks again for a long replay finds it under way
        key = ("mined", slide_id, seed, fold, epoch, teacher)
        data = await viewer.jobs.answer(key, lambda: viewer.slides.mined(slide_id, seed, fold, epoch, teacher))
        return Response(data, media_type=_PACKED)

    return answer


def _tile(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id, index = request.path_params["slide_id"], request.path_params["index"]
        model = request.query_params.get("model", "")
        facts = await viewer.jobs.once(lambda: viewer.slides.tile_facts(slide_id, index, model))
        return JSONResponse(facts)

    return answer


def _tile_picture(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id, index = request.path_params["slide_id"], request.path_params["index"]
        job = viewer.jobs.once(lambda: viewer.slides.tile_picture(slide_id, index), _lane(slide_id))
        return await _picture_or_stand_in(request, job)

    return answer


def _nearest(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id, index = request.path_params["slide_id"], request.path_params["index"]
        sample = await viewer.kept("sample", job=viewer.slides.sample)
        return JSONResponse(await viewer.jobs.once(lambda: viewer.slides.neighbours(slide_id, index, sample)))

    return answer


def _annotation(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id = SlideId(request.path_params["slide_id"])
        viewer.slides.row(slide_id)
        if request.method == "POST":
            return await _save(viewer, slide_id, request)
        annotations = viewer.annotations
        newest = None if annotations is None else await viewer.jobs.once(lambda: annotations.newest(slide_id))
        return JSONResponse(None if newest is None else newest._asdict())

    return answer


async def _save(viewer: Viewer, slide_id: SlideId, request: Request) -> Response:
    annotations = viewer.annotations
    if annotations is None or not viewer.can_save:
        why = "read_only=true" if viewer.options.read_only else "annotations= says no place to save them in"
        return JSONResponse({"error": f"nothing is saved here: {why}"}, 403)
    asked = await _body(request, MAX_BYTES + 2**16)
    author, based_on = str(asked.get("author", "")), asked.get("based_on", 0)
    if not isinstance(based_on, int) or isinstance(based_on, bool) or based_on < 0:
        raise InputError("based_on is the number of the version that was changed")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    saved = await viewer.jobs.once(
        lambda: annotations.save(slide_id, asked.get("document"), author=author, saved_at=now, based_on=based_on)
    )
    return JSONResponse(saved._asdict())


def _export(viewer: Viewer) -> Answer:
    async def answer(request: Request) -> Response:
        slide_id = SlideId(request.path_params["slide_id"])
        viewer.slides.row(slide_id)
        annotations = viewer.annotations
        if annotations is None:
            raise NotFoundError("there are no annotations here")
        data = await viewer.jobs.once(lambda: annotations.export(slide_id))
        headers = {"content-disposition": f'attachment; filename="{slide_id}.geojson"'}
        return Response(data, media_type="application/geo+json", headers=headers)

    return answer


async def _body(request: Request, most_bytes: int) -> dict[str, Any]:
    """The question's JSON object. Raises InputError for anything else, or for more than that."""
    parts, length = [], 0
    async for part in request.stream():
        parts.append(part)
        length += len(part)
        if length > most_bytes:
            raise InputError(f"more than {most_bytes:,} bytes were sent")
    try:
        value = parse_json(b"".join(parts))
    except ValueError as error:
        raise InputError(f"what was sent is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError("what was sent is no JSON object")
    return value


def _number(asked: Mapping[str, str], name: str) -> int:
    text = asked.get(name, "")
    if not text.isdecimal() or len(text) > 12:
        raise InputError(f"{name}={text} is no whole number")
    return int(text)
