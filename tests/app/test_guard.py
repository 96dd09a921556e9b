"""What the server answers at all."""

from __future__ import annotations

import asyncio

import pytest

from framefusion.app.guard import API, Guard, is_known

CALLS = ("queue/join", "queue/data", "upload", "upload_progress", "heartbeat/abc", "startup-events")
PAGE = ("/", "/config", "/theme.css", "/assets/index.js", "/static/img/x.svg")
FOREIGN = ("file=/etc/passwd", "file/etc/passwd", "file=http://10.0.0.1/", "proxy=http://10.0.0.1/", "info", "call/ask")
FOREIGN += ("run/ask", "api/ask", "uploads", "", "upload/", "queue")
NO_PAGE = ("/file=/etc/passwd", "/monitoring", "/docs", "/openapi.json", "", "/configuration", "//")


@pytest.mark.parametrize("path", [*PAGE, *(API + call for call in CALLS)])
def test_the_page_gets_what_it_asks_for(path):
    assert is_known(path)


@pytest.mark.parametrize("path", [*NO_PAGE, *(API + call for call in FOREIGN)])
def test_nothing_else_is_found(path):
    assert not is_known(path)


def answered(path, kind="http"):
    """The messages behind a request, and whether the page's application saw it."""
    seen, sent = [], []

    async def application(scope, receive, send):
        seen.append(scope["path"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
            await send({"type": "http.response.body", "body": b"the page"})

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(application)({"type": kind, "path": path}, None, send))
    return sent, seen


def test_answers_have_headers_that_keep_the_browser_here():
    (start, body), seen = answered("/")
    assert seen == ["/"]
    assert (start["status"], body["body"]) == (200, b"the page")
    headers = dict(start["headers"])
    assert headers[b"a"] == b"b"
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_what_is_unknown_never_reaches_the_application():
    (start, _), seen = answered(f"{API}file=/etc/passwd")
    assert (start["status"], seen) == (404, [])


def test_what_is_no_request_passes():
    assert answered("", kind="lifespan") == ([], [""])
