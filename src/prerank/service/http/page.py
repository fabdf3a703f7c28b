"""The web page at /: three files of the package, held in memory, which tell nothing and so need no token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Where each file is, and its type. The page asks for everything else with the token that is typed into it."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Only files of this service run, and no other site may frame the page."""


def page_routes() -> list[Route]:
    """The page's files."""
    folder = resources.files("prerank.service.http") / "web"
    return [Route(path, _file((folder / name).read_bytes(), media)) for path, (name, media) in FILES.items()]


def _file(content: bytes, media: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(_: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=media)

    return page
