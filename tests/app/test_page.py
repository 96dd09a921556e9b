"""The page as it is served, and in a browser as a visitor uses it."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request

import pytest

from framefusion.app.desk import Desk
from framefusion.app.limits import Limits
from framefusion.assets import DEMO_VIDEO, REAL_VIDEO
from framefusion.cli.errors import sentence
from framefusion.errors import ArgumentError, MissingDependencyError, StateError
from framefusion.reduction.settings import FrameFusion
from tests.app.browser import WRONG, Visitor
from tests.app.conftest import command
from tests.asking.report import chromium

pytest.importorskip("gradio", reason="the extra app is not installed")

from framefusion.app import page

AFTER = "which large thing came after the red circle?"
STAR = "what colour is the star?"
OPENING = page.Opening("bundled", 0.3, 16, (STAR, AFTER), "It knows shapes.")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
LIMITS = Limits(upload=3 * 2**20, seconds=30, frames=16)

needs_chromium = pytest.mark.skipif(chromium.executable() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def desk(bundled):
    examples = {path.name: path for path in (DEMO_VIDEO, REAL_VIDEO)}
    return Desk(bundled, lambda cost: FrameFusion(cost=cost), command, LIMITS, examples, max_new_tokens=8)


@pytest.fixture(scope="module")
def address(desk):
    with page.served(desk, OPENING, sentence) as (at, public):
        assert public is None
        yield at


@pytest.fixture(scope="module")
def browser():
    with chromium.Chromium() as running:
        yield running


def status(address, path, data=None):
    try:
        asked = urllib.request.Request(address.rstrip("/") + path, data=data)
        with DIRECT.open(asked, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_it_is_on_this_machine_alone_and_says_nothing_of_its_files(address, desk, tmp_path):
    assert address.startswith("http://127.0.0.1:")
    code, config = status(address, "/config")
    assert code == 200
    told = json.loads(config)
    assert told["analytics_enabled"] is False
    assert told["run_history"] is False
    assert str(DEMO_VIDEO.parent) not in config.decode()
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (f"/gradio_api/file={secret}", f"/gradio_api/file={DEMO_VIDEO}", f"/file={secret}"):
        assert status(address, path) == (404, b"not found")
    port = int(re.findall(r":(\d+)/", address)[0])
    refused = pytest.raises(ArgumentError, match=rf"127\.0\.0\.1:{port} cannot be listened on .*give another --host or")
    with refused, page.served(desk, OPENING, sentence, port=port):
        pass


def test_a_file_that_the_page_did_not_upload_is_not_taken(address, desk):
    """A call that names a path of the machine, as a page of somebody else's could send it."""
    functions = json.loads(status(address, "/config")[1])["dependencies"]
    (index,) = [number for number, one in enumerate(functions) if one["targets"][0][1] == "upload"]
    for path in (str(DEMO_VIDEO), "/etc/passwd"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.mp4"}
        body = {"data": [file, 8], "fn_index": functions[index]["id"], "session_hash": "somebody", "trigger_id": None}
        code, _ = status_of_json(address, body)
        assert code == 200  # that it is queued
        _, events = status(address, "/gradio_api/queue/data?session_hash=somebody")
        assert '"success":false' in events.decode().replace(" ", "")
        assert "frames to show" not in events.decode()
    assert DEMO_VIDEO.exists()


def status_of_json(address, body):
    asked = urllib.request.Request(
        f"{address}gradio_api/queue/join",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return answer.status, answer.read()


def test_uploads_that_no_page_took_are_deleted(tmp_path):
    old, new = tmp_path / "old" / "a.mp4", tmp_path / "new.mp4"
    old.parent.mkdir()
    for path in (old, new):
        path.write_text("a video")
    os.utime(old, (1, 1))
    os.utime(old.parent, (1, 1))
    page.delete_abandoned(tmp_path, time.time() - 60)
    assert not old.exists()
    assert new.exists()
    os.utime(old.parent, (1, 1))
    page.delete_abandoned(tmp_path, time.time() - 60)
    assert list(tmp_path.iterdir()) == [new]


def test_without_gradio_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "framefusion.app.page")
    with pytest.raises(MissingDependencyError, match=r"the page needs Gradio: pip install 'framefusion\[app\]'"):
        __import__("framefusion.app.page")


def test_sharing_that_fails_ends_it_and_leaves_nothing(make, monkeypatch):
    def unreachable(**options):
        raise RuntimeError("no relay")

    monkeypatch.setattr("gradio.networking.setup_tunnel", unreachable)
    before = os.environ.get("GRADIO_TEMP_DIR")
    refused = pytest.raises(StateError, match="could not be shared")
    with refused, page.served(make(), OPENING, sentence, share=True):
        pass
    assert os.environ.get("GRADIO_TEMP_DIR") == before


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 99999)])
def test_an_address_that_is_not_this_machines_is_refused(desk, host, port):
    refused = pytest.raises(ArgumentError, match="cannot be listened on")
    with refused, page.served(desk, OPENING, sentence, host=host, port=port):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_environment_neither_shares_it_nor_hides_it_behind_a_proxy(make, monkeypatch, host):
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    foreign = {"GRADIO_SHARE": "true", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "1"}
    foreign |= {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.org", "GRADIO_ALLOWED_PATHS": "/"}
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("no_proxy", raising=False)
    before = [os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "no_proxy")]
    with page.served(make(), OPENING, sentence, host=host) as (at, public):
        assert public is None
        assert at.startswith(f"http://[{host}]:" if ":" in host else f"http://{host}:")
        assert status(at, "/")[0] == 200
        assert os.environ["no_proxy"].startswith("example.org,")
    assert [os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "no_proxy")] == before


@needs_chromium
def test_a_visit(address, browser, desk, tmp_path):
    """Ask the bundled video, move the budget, ask again, ask on, bring files of one's own, right and wrong ones."""
    visitor = Visitor(browser, address)
    assert visitor.text("#status") == "Ask about the chosen video, or drop your own."
    assert f"Questions about {DEMO_VIDEO.name}" in visitor.text("#questions")
    assert visitor.text(".ff-head p").endswith("Model: bundled. It knows shapes.")
    visitor.click("#questions button:nth-of-type(2)")
    visitor.wait(f"document.querySelector('#question textarea').value == {json.dumps(AFTER)}")
    answer = visitor.ask(AFTER)
    assert answer.count("red diamond") == 2
    assert "102 of 1,024 visual tokens" in answer
    assert visitor.value("document.querySelector('#command textarea').value") == f"scenes.mp4 {AFTER} 0.3 16"
    assert "each further token" in visitor.text("#costs")
    assert visitor.value("[...document.querySelectorAll('#player img')].every(i => i.naturalWidth > 0)")

    visitor.fill("#cost input[type=range]", "0.1")
    reduced = visitor.ask(AFTER)
    assert reduced != answer
    assert visitor.value("document.querySelector('#command textarea').value") == f"scenes.mp4 {AFTER} 0.1 16"

    visitor.fill("#following :is(input, textarea)", STAR)
    visitor.click("#follow")
    visitor.wait("document.querySelector('#talk li')")
    assert "green" in visitor.text("#talk")
    assert visitor.text("#answers") == reduced

    # the player, by keyboard
    visitor.value("document.querySelector('#player input').focus()")
    visitor.press("ArrowRight", 39)
    shown = "[...document.querySelectorAll('#player figure')].findIndex(f => !f.hidden)"
    visitor.wait(f"{shown} == 1")
    visitor.click("#player .play")
    visitor.wait(f"{shown} == 3")
    visitor.click("#player .play")
    assert visitor.text("#player .play") == "Play"

    # wrong files change nothing
    cut, large, mine = tmp_path / "cut.mp4", tmp_path / "large.mp4", tmp_path / "my <b>clip.mp4"
    cut.write_bytes(DEMO_VIDEO.read_bytes()[:3000])
    large.write_bytes(bytes(4 * 2**20))
    mine.write_bytes(REAL_VIDEO.read_bytes())
    visitor.upload(str(cut))
    visitor.wait(WRONG)
    assert visitor.text("#status") == "cut.mp4 contains no frame that can be decoded; it is damaged or encrypted"
    visitor.upload(str(large))
    visitor.wait("document.querySelector('.toast-body')")
    assert "maximum allowed size" in visitor.text(".toast-body")
    assert visitor.text("#answers") == reduced

    visitor.upload(str(mine))
    visitor.wait("document.querySelector('#status').innerText.includes('16 frames to show')")
    assert visitor.text("#answers") == ""
    assert len(desk.visits) == 1
    visitor.fill("#question :is(input, textarea)", "what is <i>this</i>?")
    visitor.value("document.querySelector('#question :is(input, textarea)').focus()")
    visitor.press("Enter", 13)
    visitor.wait("document.querySelector('#answers .answer')")
    assert "what is <i>this</i>?" in visitor.text("#answers")
    assert visitor.value("document.querySelector('#command textarea').value").endswith("what is <i>this</i>? 0.1 16")
    assert {url.split("/")[2] for url in browser.requests if url.startswith("http")} == {address.split("/")[2]}

    # a page that is closed leaves nothing
    browser.open("about:blank")
    end = time.monotonic() + 30
    while len(desk.visits):
        assert time.monotonic() < end
        time.sleep(0.1)


@needs_chromium
def test_two_browsers_at_once_see_their_own(address, browser, tmp_path):
    files = {name: tmp_path / f"{name}.mp4" for name in ("mine", "yours")}
    files["mine"].write_bytes(DEMO_VIDEO.read_bytes())
    files["yours"].write_bytes(REAL_VIDEO.read_bytes())
    with chromium.Chromium() as other:
        visitors = {"mine": Visitor(browser, address), "yours": Visitor(other, address)}
        for name, visitor in visitors.items():
            visitor.upload(str(files[name]))
        for visitor in visitors.values():
            visitor.wait("document.querySelector('#status').innerText.includes('frames to show')")
            visitor.fill("#question :is(input, textarea)", AFTER)
            visitor.click("#ask")
        for name, visitor in visitors.items():
            visitor.wait("document.querySelector('#answers .answer')")
            assert visitor.value("document.querySelector('#command textarea').value") == f"{name}.mp4 {AFTER} 0.3 16"
        assert visitors["mine"].text("#answers").count("red diamond") == 2
        assert visitors["mine"].text("#player") != visitors["yours"].text("#player")


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_its_window_and_everything_has_a_name(address, browser, width):
    visitor = Visitor(browser, address, width)
    visitor.click("#example label:nth-of-type(2) input")
    visitor.wait("document.querySelector('#player img')")
    assert visitor.value("document.documentElement.scrollWidth") <= width
    # a question has room, in a window that becomes narrow, too
    visitor.fill("#question textarea", AFTER)
    browser.call("Emulation.setDeviceMetricsOverride", width=330, height=900, deviceScaleFactor=1, mobile=False)
    visitor.wait("document.querySelector('#question textarea').clientHeight > 50")
    assert visitor.value("(e => e.scrollHeight <= e.clientHeight)(document.querySelector('#question textarea'))")
    unnamed = """[...document.querySelectorAll('input, textarea, button, select')].filter(e =>
        e.getClientRects().length && !(e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby') || e.title
        || e.innerText?.trim())).map(e => e.outerHTML)"""
    assert visitor.value(unnamed) == []
