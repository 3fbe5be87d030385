"""Every address of the console, what each answers, and the headers that keep strangers' pages away.

Pages are files in `static/`, put into one layout when the site is built; what changes they ask for as JSON. Nothing
here changes anything but whether the asker has a cookie.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from console import report
from console.desk import Desk
from console.door import COOKIE, COOKIE_S, Door, same_origin
from console.live import Live
from wire.archive import NoRecording
from wire.errors import BusUnavailable, EntryError

logger = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
#: Page -> its title; the file is `static/{name}.html`.
PAGES: Mapping[str, str] = {
    "overview": "Overview",
    "session": "Session",
    "recordings": "Recordings",
    "try": "Try it",
}
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: What anybody may have: what the page that asks for the token needs.
OPEN_PATHS = frozenset({"/login", "/static/console.css", "/static/steno.svg"})
#: Largest form that is read, in bytes: it holds a token.
MAX_FORM_BYTES = 4096

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "media-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none, a browser's form would not say where it comes from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-store",
}

_LEAVE = '<form method="post" action="/logout"><button class="quiet" type="submit">Sign out</button></form>'

Answer = Callable[[Request], Awaitable[Response]]


class Site:
    """The pages over a desk; `app` is what a server runs."""

    def __init__(self, door: Door, desk: Desk, live: Live) -> None:
        self._door, self._desk, self._live = door, desk, live
        layout = Template((STATIC / "layout.html").read_text())
        self._pages = {name: _page(layout, name, title, door) for name, title in PAGES.items()}
        self._login = Template((STATIC / "login.html").read_text())
        routes: list[Route | WebSocketRoute] = [
            Route("/", self._show("overview")),
            Route("/try", self._show("try")),
            Route("/recordings", self._show("recordings")),
            Route("/recordings/{session}", self._report),
            Route("/sessions/{session}", self._show("session")),
            Route("/api/overview", self._overview),
            Route("/api/sessions/{session}", self._session),
            Route("/api/recordings", self._recordings),
            Route("/api/live", self._room),
            Route("/static/{name}", _file),
            Route("/login", self._ask, methods=["GET"]),
            Route("/login", self._let_in, methods=["POST"]),
            Route("/logout", self._let_out, methods=["POST"]),
            WebSocketRoute("/live", self._try),
        ]
        handlers: Mapping[Any, Any] = {404: _not_found, BusUnavailable: _no_redis}
        self.app: ASGIApp = Guard(Starlette(routes=routes, exception_handlers=handlers), door)

    def _show(self, name: str) -> Answer:
        async def answer(_: Request) -> Response:
            return HTMLResponse(self._pages[name])

        return answer

    async def _overview(self, _: Request) -> Response:
        return JSONResponse(await self._desk.overview())

    async def _session(self, request: Request) -> Response:
        after = request.query_params.get("after", "")
        if not _is_entry_id(after):
            return JSONResponse({"error": "after is no entry id"}, HTTPStatus.BAD_REQUEST)
        found = await self._desk.session(request.path_params["session"], after)
        if found is None:
            return JSONResponse({"error": "no such session is open"}, HTTPStatus.NOT_FOUND)
        return JSONResponse(found)

    async def _recordings(self, _: Request) -> Response:
        return JSONResponse(await self._desk.recordings())

    async def _report(self, request: Request) -> Response:
        """A recording's own page, under its own policy; with `?save`, a file to keep."""
        name = request.path_params["session"]
        try:
            page, more_soon = await self._desk.report(name)
        except NoRecording as error:
            return PlainTextResponse(f"{error}\n", HTTPStatus.NOT_FOUND)
        except EntryError as error:
            return PlainTextResponse(f"{error}\n", HTTPStatus.CONFLICT)
        headers = {"Content-Security-Policy": f"{report.POLICY}; frame-ancestors 'none'"}
        if "save" in request.query_params:
            safe = re.sub(r"[^\w-]", "_", name, flags=re.ASCII)
            headers["Content-Disposition"] = f'attachment; filename="{safe}.html"'
        elif more_soon:
            headers["Refresh"] = "1"
        return HTMLResponse(page, headers=headers)

    async def _room(self, _: Request) -> Response:
        return JSONResponse({"open": self._live.open, "most": self._live.most, "url": self._live.url})

    async def _try(self, page: WebSocket) -> None:
        await self._live.serve(page)

    async def _ask(self, _: Request) -> Response:
        return HTMLResponse(self._login.substitute(note=""))

    async def _let_in(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_FORM_BYTES:
                return Response(status_code=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if not self._door.opens(_token_in(body)):
            logger.warning("A wrong token was given", extra={"peer": request.client and request.client.host})
            note = '<p class="note bad" role="alert">That is not the token.</p>'
            return HTMLResponse(self._login.substitute(note=note), HTTPStatus.FORBIDDEN)
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE,
            self._door.cookie(time.time()),
            max_age=COOKIE_S,
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return answer

    async def _let_out(self, _: Request) -> Response:
        answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


class Guard:
    """Before everything: who may not look gets the login page or 403; every answer gets the headers."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                named = {name for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in named
                ]
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(Headers(scope=scope).items())
        acts = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if acts and not same_origin(headers):
            return Response("from another origin\n", HTTPStatus.FORBIDDEN)
        cookie = HTTPConnection(scope).cookies.get(COOKIE, "")
        if self._door.lets_in(headers, cookie, time.time()):
            return None
        if self._door.token is None:
            return Response("this console answers to localhost only\n", HTTPStatus.FORBIDDEN)
        if scope["path"] in OPEN_PATHS:
            return None
        if acts or scope["path"].startswith("/api/"):
            return JSONResponse({"error": "the token is needed"}, HTTPStatus.UNAUTHORIZED)
        return RedirectResponse("/login", HTTPStatus.SEE_OTHER)


async def _file(request: Request) -> Response:
    path = STATIC / Path(request.path_params["name"]).name
    kind = _TYPES.get(path.suffix)
    if kind is None or not path.is_file():
        return await _not_found(request, None)
    return Response(path.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})


async def _not_found(_: Request, __: Any) -> Response:
    return Response("not found\n", HTTPStatus.NOT_FOUND)


async def _no_redis(_: Request, error: Any) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)


def _page(layout: Template, name: str, title: str, door: Door) -> str:
    here = {f"on_{other}": ' aria-current="page"' if other == name else "" for other in PAGES}
    leave = _LEAVE if door.token else ""
    return layout.substitute(
        here, leave=leave, title=title, name=name, main=(STATIC / f"{name}.html").read_text()
    )


def _token_in(form: bytes) -> str:
    """What a form's field `token` holds."""
    return parse_qs(form.decode(errors="replace")).get("token", [""])[0].strip()


def _is_entry_id(text: str) -> bool:
    """Whether this is the id of a stream's entry, or nothing."""
    parts = text.split("-")
    return not text or (len(parts) == 2 and all(part.isdigit() and len(part) < 20 for part in parts))
