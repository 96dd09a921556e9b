"""Cards of notebooks: what they hold, and that no text from outside is code."""

import re
from html.parser import HTMLParser

import pytest

from framefusion.showing.notebook import Card

NASTY = '<script>document.title="owned"</script>"\'&<img src=x onerror=alert(1)>'


class Shown(HTMLParser):
    """Tags and texts, and that tags nest."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def test_every_text_is_escaped():
    card = Card(NASTY, NASTY, [(NASTY, NASTY)], [4, 2], 4, "data:image/png;base64,AA==", caption=NASTY)
    shown = Shown(card.html())
    assert {tag for tag, _ in shown.tags} == {"div", "img", "span", "table", "tr", "td"}
    assert sum(tag == "img" for tag, _ in shown.tags) == 1
    assert [text for text in shown.texts if NASTY in text] == [NASTY] * 5


def test_nothing_comes_from_elsewhere():
    page = Card("a", "b", [("c", "d")], [4, 2], 4).html()
    assert not re.search(r"https?:|url\(|<style|<script|class=", page)


def test_a_bar_for_each_layer_as_high_as_its_share():
    tokens = [40, 40, 10, 0]
    bars = [a["style"] for t, a in Shown(Card("a", None, [], tokens, 40).html()).tags if t == "span" and "title" in a]
    assert [float(re.search(r"height:([\d.]+)%", bar)[1]) for bar in bars] == [100, 100, 25, 0]
    widths = [float(re.search(r"width:([\d.]+)%", bar)[1]) for bar in bars]
    gaps = [float(re.search(r"margin-right:([\d.]+)%", bar)[1]) for bar in bars]
    assert sum(widths) + sum(gaps) == pytest.approx(100, abs=0.1)


def test_long_texts_are_cut():
    assert len(Card("q" * 10**6, "a" * 10**6, [("n", "v" * 10**6)], [], 0).html()) < 10_000


def test_an_empty_answer_is_said_to_be_empty():
    assert "(no text)" in Card("q", "", [], [], 0).html()
    assert "(no text)" not in Card("q", None, [], [], 0).html()
