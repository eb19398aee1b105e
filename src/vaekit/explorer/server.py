"""The explorer's web server: a page, its script and its style, and a few JSON endpoints. It keeps no state but the models; it
answers this machine alone unless it is told to listen elsewhere, and then asks for a token.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from vaekit.data.images import Images
from vaekit.explorer.explored import Explored, as_picture, as_png, background, read_picture
from vaekit.pictures.style import CLASSES, dark_colour
from vaekit.state import undisturbed

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/helpers.js": ("helpers.js", "text/javascript"),
    "/run.js": ("run.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# What the page may ask of a run, and with which fields.
ACTIONS = {
    "decode": {"code", "point", "label"},
    "between": {"a", "b", "label"},
    "sample": {"code", "start", "label", "temperature", "seed"},
    "choices": {"code", "cell", "label"},
}
MOST_JSON = 2**20  # bytes
MOST_UPLOAD = 16 * 2**20
PORTS = 20  # tried from the one that is asked for
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _facts(images: Images) -> dict:
    """What the page is told of the images."""
    return {
        "data": images.name,
        "split": images.split,
        "shape": list(images.image_shape),
        "classes": list(images.classes),
        "labels": None if images.y is None else images.y.tolist(),
        "colours": list(CLASSES),
        "dark_colours": list(map(dark_colour, CLASSES)),
        "background": background(images),
    }


def make_app(runs: Sequence[Explored], images: Images, *, token: str | None = None) -> Starlette:
    """The web application that explores `runs` on the held-out `images`; every request needs `token` where one is given."""

    def find(request: Request) -> Explored:
        index = request.path_params["run"]
        if index >= len(runs):
            raise HTTPException(404, f"there is no run {index}; there are {len(runs)}, counted from 0")
        return runs[index]

    async def start(request: Request) -> Response:
        return JSONResponse({**_facts(images), "runs": [run.facts() for run in runs]})

    async def act(request: Request) -> Response:
        run, action = find(request), request.path_params["action"]
        if action not in ACTIONS:
            raise HTTPException(404, f"a run can't {action[:40]}; it can {', '.join(ACTIONS)} and encode")
        asked = parse_json(await read_body(request, MOST_JSON))
        unknown = sorted(set(asked) - ACTIONS[action])
        if unknown:
            raise ValueError(f"{action} has no {unknown[0][:40]!r}; it takes {', '.join(sorted(ACTIONS[action]))}")
        return JSONResponse(await run_in_threadpool(getattr(run, action), **asked))

    async def encode(request: Request) -> Response:
        run, label = find(request), request.query_params.get("label")
        data = await read_body(request, MOST_UPLOAD)

        def work() -> dict:
            decoding = run.model.facts["data"]["decoding"] or {}
            picture = read_picture(data, run.model.format.shape, decoding.get("white"))
            return run.encode(picture=picture, label=label)

        return JSONResponse(await run_in_threadpool(work))

    async def picture(request: Request) -> Response:
        index = request.path_params["index"]
        if index >= len(images):
            raise HTTPException(404, f"there is no image {index}; there are {len(images)}")
        return Response(as_png(as_picture(images.x[index])), media_type="image/png")

    return Starlette(
        routes=[
            *(Route(path, _file(name, media_type)) for path, (name, media_type) in FILES.items()),
            Route("/api/start", start),
            Route("/api/images/{index:int}.png", picture),
            Route("/api/runs/{run:int}/encode", encode, methods=["POST"]),
            Route("/api/runs/{run:int}/{action}", act, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={HTTPException: _report, ValueError: _report, Exception: _report},
    )


class Guard:
    """Lets in who may ask: with the token where there is one, and otherwise only pages that this server sent to a browser on
    this machine (a foreign site may point its own name at 127.0.0.1, or post to it). Adds the security headers.
    """

    def __init__(self, app, *, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return

        async def send_guarded(message):
            if message["type"] == "http.response.start":
                headers = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        answer = self._refusal(Request(scope))
        await (answer or self.app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if request.method not in ("GET", "HEAD"):
            foreign = origin is not None and urlsplit(origin).netloc != host
            if foreign or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return _error(403, "this request came from another site's page")
        if self.token is None:
            if not is_loopback(_hostname(host)):
                return _error(403, f"this explorer is for this machine alone, not for the host {host[:80]!r}")
            return None
        cookie = f"vaekit_{(request.scope.get('server') or ('', 0))[1]}"  # browsers share cookies among ports
        if _same(request.query_params.get("token", ""), self.token):
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
            return answer
        if _same(request.cookies.get(cookie, ""), self.token):
            return None
        return _error(
            403, "open the address that `vaekit explore` printed: it ends in the token that is asked for here"
        )


async def read_body(request: Request, most: int) -> bytes:
    """The request's body; refused with 413 as soon as it is known to be larger than `most` bytes."""
    refusal = HTTPException(413, f"that is too large: at most {most / 2**20:g} MB can be sent")
    promised = request.headers.get("content-length", "0")
    if not promised.isdecimal() or int(promised) > most:
        raise refusal
    parts, found = [], 0
    try:
        async for part in request.stream():
            found += len(part)
            if found > most:
                raise refusal
            parts.append(part)
    except ClientDisconnect:  # a page that was closed meanwhile; the answer goes nowhere
        raise HTTPException(400, "the request was cut off") from None
    return b"".join(parts)


def parse_json(body: bytes) -> dict:
    """A JSON object, or ValueError; NaN and infinity, which Python reads, are no JSON."""

    def refuse(constant: str):
        raise ValueError(f"numbers must be finite, got {constant}")

    try:
        asked = json.loads(body, parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the request is no JSON ({str(error)[:80]})") from None
    if not isinstance(asked, dict):
        raise ValueError("the request must be a JSON object")
    return asked


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host`, on `port` or the next free one. Raises ValueError where none can be had."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be in 0..65535, got {port}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ValueError(f"host {host!r} can't be found ({error.strerror})") from None
    last = min(port + PORTS - 1, 65535)
    for candidate in range(port, last + 1):
        # asyncio sends at once only where the protocol is named: else each answer waits 40 ms for an acknowledgement.
        found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address[0], candidate, *address[2:]))
            found.listen(128)
            return found
        except OSError as error:
            found.close()
            if error.errno != errno.EADDRINUSE:
                raise ValueError(f"can't listen on {host} port {candidate}: {error.strerror}") from None
    raise ValueError(f"ports {port} to {last} of {host} are all taken; choose another with --port")


@undisturbed
def serve(
    runs: Sequence[Explored], images: Images, *, host: str, port: int, browser: bool, say: Callable[[str], None]
) -> None:
    """Serves the page until Ctrl-C. Elsewhere than on this machine's own addresses a random token is asked for."""
    with listen(host, port) as listening:
        token = None if is_loopback(host) else secrets.token_urlsafe(24)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/{f'?token={token}' if token else ''}"
        say(f"exploring at {address} (Ctrl-C ends it)")
        if browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        settings = uvicorn.Config(
            make_app(runs, images, token=token),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[listening])


def _file(name: str, media_type: str):
    content = (PAGE / name).read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)


async def _report(request: Request, error: Exception) -> Response:
    """What went wrong, for the page's message line."""
    if isinstance(error, HTTPException):
        return _error(error.status_code, error.detail)
    if isinstance(error, ValueError):
        return _error(400, str(error))
    return _error(500, f"the explorer failed at this ({type(error).__name__}); its terminal says more")
