"""The page in Chromium: what a visitor does, and waits for."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.asking.report.chromium import Chromium


class Visitor:
    """One open page.

    Args:
        browser: in which it opens; its last page is closed.
        address: of the page.
        width: of the window.
    """

    def __init__(self, browser: Chromium, address: str, width: int = 1280) -> None:
        self.browser = browser
        browser.call("DOM.enable")
        browser.open(address, width=width)
        self.wait("document.querySelector('#ask')")

    def value(self, expression: str) -> Any:
        return self.browser.evaluate(expression)

    def wait(self, expression: str, seconds: float = 120) -> None:
        """Until something is so."""
        end = time.monotonic() + seconds
        while not self.value(f"!!({expression})"):
            assert time.monotonic() < end, f"{expression} did not happen: {self.value('document.body.innerText')}"
            time.sleep(0.1)

    def text(self, selector: str) -> str:
        return str(self.value(f"document.querySelector({selector!r})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        self.value(f"document.querySelector({selector!r}).click()")

    def fill(self, selector: str, value: str) -> None:
        self.value(
            f"(() => {{ const field = document.querySelector({selector!r}); field.value = {json.dumps(value)};"
            "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true})) })()"
        )

    def press(self, key: str, code: int) -> None:
        """A key, as from the keyboard."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.browser.call("Input.dispatchKeyEvent", type="rawKeyDown", **about)
        if key == "Enter":
            self.browser.call("Input.dispatchKeyEvent", type="char", text="\r", **about)
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def upload(self, path: str) -> None:
        document = self.browser.call("DOM.getDocument")["root"]["nodeId"]
        node = self.browser.call("DOM.querySelector", nodeId=document, selector="#upload input[type=file]")["nodeId"]
        self.browser.call("DOM.setFileInputFiles", nodeId=node, files=[path])

    def ask(self, question: str) -> str:
        """The heading and the answers."""
        self.fill("#question :is(input, textarea)", question)
        before = self.text("#answers")
        self.click("#ask")
        self.wait(f"document.querySelector('#answers').innerText != {json.dumps(before)} || {WRONG}")
        return self.text("#answers")


WRONG = "document.querySelector('#status .wrong')"
"""Whether something was refused."""
