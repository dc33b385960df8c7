"""The server of ``spineline review``: only on this machine, for one browser.

Access requires the token in the address. A page of another origin does not have it, and is also
refused by its ``Host`` and ``Origin``. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import csv
import errno
import hmac
import io
import json
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any

from spineline.converters.sources.result.corrections import LEVELS_AND_BEYOND, MOST_LETTERS
from spineline.datasets.common.errors import AnnotationError, ConfigError, SpinelineError
from spineline.datasets.common.log import LOG
from spineline.datasets.labels import KIND_OF_SEVEN, LEVELS, SEVEN_NAMES
from spineline.pipeline.review.studies import ConflictError, ReviewedStudies, to_bytes

MISSING_PACKAGES = (
    "review needs the packages starlette and uvicorn, which are not installed; "
    "install them with pip install 'spineline[review]'"
)

try:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as missing:
    raise ConfigError(MISSING_PACKAGES) from missing

MOST_BYTES = 256 * 1024
"""Size limit of a request's body; the changes of a study need a few thousand bytes."""

_ASSETS = {
    "index.html": "text/html; charset=utf-8",
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "spine.js": "text/javascript; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "list.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def review_app(
    studies: ReviewedStudies, *, token: str, port: int, readonly: bool = False
) -> ASGIApp:
    """The server's application.

    Args:
        studies: to review.
        token: first part of every path.
        port: of the server; requests for another host are refused.
        readonly: do not save anything.
    """
    answers = _Answers(studies, readonly=readonly)
    routes = [
        Route("/", answers.asset),
        Route("/assets/{asset}", answers.asset),
        Route("/api/setup", answers.setup),
        Route("/api/studies", answers.listed),
        Route("/api/studies/{name}", answers.study),
        Route("/api/studies/{name}/slices/{place:int}", answers.pixels),
        Route("/api/studies/{name}/corrections", answers.save, methods=["PUT"]),
        Route("/api/status.csv", answers.status),
    ]
    return _Guard(Starlette(routes=routes), token, port)


class _Guard:
    """Accepts only requests of the page itself, and adds security headers."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = tuple(f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost"))
        self._origins = tuple(b"http://" + host for host in self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_fenced(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), text.encode()) for name, text in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_fenced)
            return
        _, _, path = scope["path"][1:].partition("/")
        inner = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode(), "root_path": ""}
        await self._app(inner, receive, send_fenced)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _error(421, "this server answers only for 127.0.0.1")
        origins = [value for name, value in headers if name == b"origin"]
        sites = [value for name, value in headers if name == b"sec-fetch-site"]
        opens = scope["method"] == "GET" and (b"sec-fetch-mode", b"navigate") in headers
        if any(origin not in self._origins for origin in origins):
            return _error(403, "the request comes from another origin")
        if not opens and any(site not in (b"same-origin", b"none") for site in sites):
            return _error(403, "the request comes from another site")
        given, slash, _ = scope["path"][1:].partition("/")
        if not slash or not hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            return _error(404, "no such page; open the whole address that spineline review printed")
        length = [value for name, value in headers if name == b"content-length"]
        if any(not value.isdigit() or int(value) > MOST_BYTES for value in length):
            return _error(413, f"a body of more than {MOST_BYTES} bytes")
        return None


class _Answers:
    """The endpoints."""

    def __init__(self, studies: ReviewedStudies, *, readonly: bool) -> None:
        self._studies = studies
        self._readonly = readonly

    async def asset(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("asset", "index.html")
        if name not in _ASSETS:
            return _error(404, "no such file")
        place = resources.files("spineline.pipeline.review") / "assets" / name
        return Response(place.read_bytes(), media_type=_ASSETS[name])

    async def setup(self, _: Request) -> Response:
        """The initial settings of the page."""
        codes = [
            {"name": name, "kind": kind}
            for name, kind in zip(SEVEN_NAMES, KIND_OF_SEVEN, strict=True)
        ]
        return _json(
            {
                "levels": LEVELS,
                "beyond": LEVELS_AND_BEYOND,
                "grades": codes,
                "readonly": self._readonly,
                "most_letters": MOST_LETTERS,
            }
        )

    async def listed(self, request: Request) -> Response:
        """A part of the list of studies."""
        query = request.query_params
        try:
            offset, limit = int(query.get("offset", "0")), int(query.get("limit", "100"))
        except ValueError:
            return _error(400, "offset and limit must be whole numbers")
        if offset < 0 or not 1 <= limit <= 500:
            return _error(400, "wanted offset from 0 and limit from 1 to 500")
        words = {name: query.get(name, "") for name in ("status", "code", "text")}
        return await _answered(
            lambda: _json(self._studies.page(offset=offset, limit=limit, **words))
        )

    async def study(self, request: Request) -> Response:
        """A study's result and corrections."""
        name = request.path_params["name"]
        return await _answered(lambda: _json(self._studies.study(name)))

    async def pixels(self, request: Request) -> Response:
        """A slice, upright, as little-endian 16-bit numbers."""
        name, place = request.path_params["name"], request.path_params["place"]
        return await _answered(lambda: _slice_response(self._studies, name, place))

    async def status(self, _: Request) -> Response:
        """The state of the review, as CSV."""
        return await _answered(lambda: _status_response(self._studies))

    async def save(self, request: Request) -> Response:
        """Save the corrections of a study."""
        name = request.path_params["name"]
        if self._readonly:
            return _error(403, "readonly=true: nothing is saved")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _error(415, "wanted application/json")
        body = b""
        try:
            async for part in request.stream():
                body += part
                if len(body) > MOST_BYTES:
                    return _error(413, f"a body of more than {MOST_BYTES} bytes")
        except ClientDisconnect:
            return _error(400, "the request was cut short")
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return _error(400, "the body is not JSON")
        if not isinstance(value, Mapping):
            return _error(400, "the body is not a JSON object")
        return await _answered(lambda: _json(self._studies.save(name, value).to_json()))


async def _answered(answer: Callable[[], Response]) -> Response:
    """Compute a response outside the event loop, with errors as text for the page."""
    work: Awaitable[Response] = run_in_threadpool(answer)
    try:
        return await work
    except KeyError:
        return _error(404, "no such study")
    except IndexError:
        return _error(404, "no such slice")
    except ConflictError as error:
        return _error(409, str(error))
    except AnnotationError as error:
        return _error(422, str(error))
    except SpinelineError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return _error(507, "not saved: the disk is full; free some space, then continue")
        if isinstance(cause, OSError):
            LOG.error("error: %s", error)
            return _error(500, f"not saved: {cause.strerror or 'the file cannot be written'}")
        return _error(422, str(error))


def _slice_response(studies: ReviewedStudies, name: str, place: int) -> Response:
    shown = studies.located(name).shown(place)
    turn = shown.turn
    rows, columns = shown.greys.shape
    about = {
        "rows": rows,
        "columns": columns,
        "slope": shown.slope,
        "offset": shown.offset,
        "window": list(shown.window),
        "turn": {
            "transpose": turn.transpose,
            "flip_x": turn.flip_x,
            "flip_y": turn.flip_y,
            "size_hw": list(turn.size_hw),
            "scale_xy": list(turn.scale_xy),
        },
    }
    headers = {"x-slice": json.dumps(about)}
    return Response(shown.greys.tobytes(), media_type="application/octet-stream", headers=headers)


def _status_response(studies: ReviewedStudies) -> Response:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("study", "status", "looked_at", "changes", "comment", "reason"))
    for entry in sorted(studies.entries(), key=lambda entry: entry.name):
        cells = (entry.changes, entry.comment, entry.reason)
        table.writerow((entry.name, entry.status, int(entry.looked_at), *map(_plain_cell, cells)))
    headers = {"content-disposition": 'attachment; filename="review-status.csv"'}
    return Response(text.getvalue().encode(), media_type="text/csv; charset=utf-8", headers=headers)


def _plain_cell(text: str) -> str:
    """A text that spreadsheets do not interpret as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _json(value: Any) -> Response:
    return Response(to_bytes(value), media_type="application/json")


def _error(status: int, text: str) -> Response:
    return Response(to_bytes({"error": text}), status, media_type="application/json")
