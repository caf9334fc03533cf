"""A live page for the tablet in the cab: detections, status, the threshold, and a button to mark a place."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.board import temperatures
from edgecrack.errors import MissingDependency, SourceError, SpecError
from edgecrack.runtime.camera import Event
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.detector import CrackDetector
from edgecrack.runtime.door import Door
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.readings import Readings

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route, WebSocketRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starlette.websockets import WebSocket, WebSocketClose, WebSocketDisconnect
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as missing:
    raise MissingDependency("the page needs Starlette and uvicorn; pip install 'edgecrack[live]'") from missing

_log = logging.getLogger("edgecrack")
_SIDE = 1280  # pixels of the longer side of an image; a tablet shows no more
_QUALITY = 80  # of a JPEG
_RATE = 15  # maximum images per second and source: the rest of the CPU is for the detector
_TICK = 0.02  # seconds between polls for new images
_TOLD = 0.5  # seconds between readings
_PATIENCE = 10  # seconds within which a viewer must request more
_VIEWERS = 32  # maximum simultaneous connections
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    # WebSockets are listed for Safari, where 'self' did not cover them before 15.4
    "content-security-policy": "default-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Page(Closing):
    """Serves the page from its own thread, which ends with `close`.

    A viewer requests each image or reading after showing the previous one, and gets the newest: a slow viewer sees
    fewer, nothing is queued, and nothing waits for it. Images are drawn and encoded only while someone is watching.
    """

    def __init__(
        self,
        door: Door,
        detector: CrackDetector,
        readings: Readings,
        folder: str | os.PathLike[str],
        mark: Callable[[Event], None],
    ) -> None:
        """Start serving at `door`, which is closed with the page.

        `readings` holds what is shown and is written by the caller that runs the detector; the page sets the detector's
        threshold. `folder` is the output folder of the run, whose free disk space is shown. `mark` is called with an
        Event "marked" for each source, in the page's thread, and raises SourceError if it could not be written.
        """
        self.url = door.url
        self._door, self._detector, self._readings = door, detector, readings
        self._folder, self._mark = folder, mark
        self._pictures = _Pictures(readings)
        self._board: tuple[float, dict[str, float | None]] = (-math.inf, {})
        self._server = uvicorn.Server(
            uvicorn.Config(
                _Guarded(self._app(), door),
                http=_Connection,
                ws="websockets-sansio",
                ws_per_message_deflate=False,  # a JPEG does not get any smaller
                ws_max_size=1024,
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,  # a URL may contain the token
                server_header=False,
                limit_concurrency=_VIEWERS,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="edgecrack page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Disconnect all viewers and end the thread, within about a second; a second call does nothing."""
        self._server.should_exit = True
        self._thread.join(3)
        self._door.close()

    async def _serve(self) -> None:
        await self._server.serve([self._door.socket])
        for connection in list(self._server.server_state.connections):  # of viewers that no longer receive
            connection.transport.abort()
        await asyncio.sleep(0)  # lets the event loop release them

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                *(Route(path, self._show) for path in _FILES),
                Route("/threshold", self._set_threshold, methods=["POST"]),
                Route("/mark", self._mark_place, methods=["POST"]),
                WebSocketRoute("/watch", self._watch),
            ]
        )

    async def _show(self, request: Request) -> Response:
        name, kind = _FILES[request.scope["path"]]  # not request.url, which older versions take from the Host header
        return Response(_read(name), media_type=kind)

    async def _set_threshold(self, request: Request) -> Response:
        given = request.query_params.get("value", "")
        try:
            self._detector.threshold = float(given)
        except (SpecError, ValueError):
            return PlainTextResponse(f"wanted value=, a number in (0, 1], got {given!r}", 400)
        return _json({"threshold": self._detector.threshold})

    async def _mark_place(self, request: Request) -> Response:
        events = [_marked(newest[1]) for newest in self._readings.newest() if newest]
        if not events:
            return PlainTextResponse("no frame came yet, so that nothing was marked", 409)
        try:
            for event in events:
                self._mark(event)
        except SourceError as error:
            return PlainTextResponse(str(error).encode(errors="backslashreplace"), 507)
        return _json([event.to_json() for event in events])

    async def _watch(self, viewer: WebSocket) -> None:
        await viewer.accept()
        shown = dict.fromkeys(range(len(self._readings.newest())), 0)
        told = -math.inf
        with suppress(WebSocketDisconnect):
            while await _asks(viewer):
                while not self._server.should_exit:
                    if time.monotonic() - told >= _TOLD:
                        told = time.monotonic()
                        await viewer.send_text(json.dumps(self._state()))
                        break
                    if picture := self._pictures.after(shown):
                        await viewer.send_bytes(picture)
                        break
                    await asyncio.sleep(_TICK)
            await viewer.close(1001)

    def _state(self) -> dict[str, object]:
        """The status sent alongside the images."""
        now = time.monotonic()
        if now - self._board[0] >= 2:
            free = None
            with suppress(OSError):
                free = float(shutil.disk_usage(self._folder).free)
            self._board = now, {"temperature": max(temperatures().values(), default=None), "free": free}
        return {
            "sources": [asdict(reading) for reading in self._readings.now()],
            "threshold": self._detector.threshold,
            "troubles": self._readings.troubles(),
            **self._board[1],
        }


class _Pictures:
    """The newest image of each source as a message: a byte with the source's number, then a JPEG. Not thread-safe."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._messages: dict[int, tuple[int, float, bytes]] = {}  # source -> (frame serial, time encoded, message)

    def after(self, shown: dict[int, int]) -> bytes | None:
        """A message newer than those in `shown` (source -> last serial shown, least recently served first), or None."""
        newest = self._readings.newest()
        for number, seen in list(shown.items()):
            picture = newest[number]
            if picture is None or picture[0] == seen:
                continue
            serial, message = self._encoded(number, *picture)
            if serial != seen:
                del shown[number]
                shown[number] = serial  # moves it to the end
                return message
        return None

    def _encoded(self, number: int, serial: int, frame: Frame, detection: Detection) -> tuple[int, bytes]:
        done = self._messages.get(number)
        now = time.monotonic()
        if done is None or (done[0] != serial and now - done[1] >= 1 / _RATE):
            done = self._messages[number] = serial, now, bytes([number]) + _jpeg(detection.plot(frame.image))
        return done[0], done[2]


class _Connection(H11Protocol):
    """A connection that is dropped if it requests nothing: idle ones would take the file handles that recording needs."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > 2 * _VIEWERS:  # up to which uvicorn answers that it is busy
            transport.abort()
        else:
            self.loop.call_later(_PATIENCE, self._drop_idle)

    def _drop_idle(self) -> None:
        if self in self.connections and self.cycle is None:
            self.transport.abort()


class _Guarded:
    """ASGI middleware that applies the access rules of a `Door`, and adds the security headers."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        query = scope["query_string"].decode("latin-1")
        refusal = self._door.refusal(method, dict(Headers(scope=scope)), query)
        answer: ASGIApp = self._app
        if refusal and method == "WEBSOCKET":
            answer = WebSocketClose(1008, refusal[1])
        elif refusal and refusal[0] == 401 and scope["path"] == "/":
            answer = Response(_read("door.html"), 401, media_type="text/html")
        elif refusal and scope["path"] != "/page.css":  # the token form needs it too, and it is not secret
            answer = PlainTextResponse(refusal[1], refusal[0])
        elif scope["path"] == "/" and (cookie := self._door.cookie(query)):
            answer = Response(status_code=303, headers={"location": "/", "set-cookie": cookie})

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            await answer(scope, receive, send_guarded)
        except Exception:  # a bug, which uvicorn would not report
            _log.exception("the page failed")
            raise


async def _asks(viewer: WebSocket) -> bool:
    """Wait for the viewer's next request; False on a time-out. Raises WebSocketDisconnect when it has gone."""
    try:
        message = await asyncio.wait_for(viewer.receive(), _PATIENCE)
    except asyncio.TimeoutError:
        return False
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    return True


def _json(content: object) -> Response:
    return Response(json.dumps(content), media_type="application/json")  # Starlette's own fails for names not in UTF-8


def _read(name: str) -> bytes:
    return files("edgecrack.runtime").joinpath(name).read_bytes()


def _marked(frame: Frame) -> Event:
    details: dict[str, str | int | float] = {"index": frame.index}
    if frame.captured_at is not None:
        details["time"] = frame.captured_at
    return Event("marked", frame.source, time.time(), details)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    scale = _SIDE / max(image.shape)
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])
