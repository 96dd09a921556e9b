"""What the server answers: the page and its calls. No file is ever served, and the browser asks nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
"""An ASGI application."""

API = "/gradio_api/"

CALLS = ("app_id", "heartbeat/", "queue/", "startup-events", "theme.css", "upload", "upload_progress")
"""What the page needs below :data:`API`; what ends in a slash has more behind it. Files, proxies and calls by name are
not among it."""

PAGE = ("/", "/config", "/favicon.ico", "/theme.css", "/assets/", "/static/")
"""What it needs beside."""

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""Of every answer; Gradio's page has scripts of its own in it, and makes others from templates."""


class Guard:
    """Around the application that serves the page.

    Args:
        app: that application.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Pass on what the page asks for; anything else is not found."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        if is_known(scope["path"]):
            await self.app(scope, receive, answer)
            return
        await answer({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
        await answer({"type": "http.response.body", "body": b"not found"})


def is_known(path: str) -> bool:
    """Whether the page asks for such a path."""
    known = PAGE if not path.startswith(API) else tuple(API + call for call in CALLS)
    return any(path == one or (one != "/" and one.endswith("/") and path.startswith(one)) for one in known)
