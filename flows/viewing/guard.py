"""Who may ask: the right host name, on a foreign address the token, for what changes anything a page of our own.

A page of another site cannot read an answer, but could send questions to a server on this machine, and by a name that
it lets point here (DNS rebinding) read answers as well: such a name is in the Host header, which is checked. What
changes something needs a header of its own, which another site's page cannot send.
"""

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "mhim_view"
OWN_HEADER = "x-mhim-view"
"""Of every request that changes something."""
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
_OF_OPENSEADRAGON = "'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='"
"""The one style that the vendored OpenSeadragon puts into a page."""
POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {_OF_OPENSEADRAGON}; img-src 'self'; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
_READING = ("GET", "HEAD")


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, names: tuple[str, ...] | None, token: str) -> None:
        """`names`: hosts by which the server may be asked for, without port; None: any. `token`: empty for none."""
        self._app, self._names, self._token = app, names, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._names is not None and host_name(headers.get("host", "")) not in self._names:
            return _refused(421, "this server is not known by that name")
        if scope["method"] not in _READING and headers.get(OWN_HEADER) != "1":
            return _refused(403, "only the viewer's own pages may change anything")
        return self._login(scope, headers) if self._token else None

    def _login(self, scope: Scope, headers: Headers) -> Response | None:
        """None where the browser knows the token; one that brings it in the address keeps it as a cookie."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        named = [value for name, value in query if name == "token"]
        if named and scope["method"] == "GET" and self._is_token(named[0]):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            response = RedirectResponse(scope["path"] + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", path="/")
            return response
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(_cookie(headers)) or self._is_token(bearer):
            return None
        return _refused(401, "open the address that mhim view printed, which ends in ?token=…")

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())


def host_name(host: str) -> str:
    """The name in a Host header, in small letters, without its port."""
    name, _, port = host.strip().lower().rpartition(":")
    return name if name and port.isdecimal() and (not name.count(":") or name.startswith("[")) else host.strip().lower()


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _refused(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
