"""The page: self-contained, escaped, and readable in a browser in both schemes and on a phone."""

import base64
import dataclasses
import hashlib
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from framefusion.asking.report.data import SegmentRow
from framefusion.asking.report.html import _beginning, render
from framefusion.asking.report.text import lines
from framefusion.hf.timing import Times
from framefusion.showing.tokens import KEPT
from tests.asking.report import chromium, samples

needs_chromium = pytest.mark.skipif(chromium.executable() is None, reason="no Chromium is installed")


VOID = {"meta", "link", "img", "input", "br"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects tags, texts and addresses."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.addresses, self.texts = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_is_one_file_with_nothing_from_the_network():
    page = render(samples.data())
    outline = Outline(page)
    assert all(address.startswith("data:") for address in outline.addresses)
    assert not re.findall(r"https?:|url\(|@import|//\w+\.", page)
    policy = next(m["content"] for m in outline.named("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    # One script, ours, without addresses; no other can run.
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]
    assert outline.named("script") == [{}]


def test_a_single_frame_needs_no_script():
    page = render(samples.data(frames=1, segmented=False))
    assert Outline(page).named("script") == []
    assert "script-src" not in page
    assert 'class="player"' not in page


def test_page_is_accessible():
    outline = Outline(render(samples.data()))
    assert outline.named("html") == [{"lang": "en"}]
    assert any(m.get("name") == "viewport" for m in outline.named("meta"))
    assert all("alt" in image for image in outline.named("img"))
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    frames, layers = outline.named("svg")
    assert frames["role"] == layers["role"] == "img"
    kept = ", ".join(str(view.count(KEPT)) for view in samples.data().frames)
    assert frames["aria-label"] == (
        f"Tokens kept in each frame, in the last layer: {kept}; the shade changes with the segment"
    )
    assert "layer 3: 30" in layers["aria-label"]


def test_bars_and_segments_are_explained_where_there_are_some():
    page = render(samples.data())
    assert ">Tokens kept in each frame, last layer; shade: segment</p>" in page
    assert "they need not be the film’s cuts" in page
    plain = render(samples.data(segmented=False))
    assert ">Tokens kept in each frame, last layer</p>" in plain
    assert "shade" not in re.sub("<style>.*</style>", "", plain, flags=re.DOTALL)
    assert "the film’s cuts" not in plain


def test_every_text_from_outside_is_escaped():
    outline = Outline(render(samples.data(samples.NASTY)))
    assert outline.named("script") == [{}]
    assert all("onerror" not in image for image in outline.named("img"))
    shown = [text for text in outline.texts if samples.NASTY in text]
    # title, heading, file name, two answers, timing, command, setting
    assert len(shown) == 8


def test_command_reads_as_it_was_given():
    data = dataclasses.replace(samples.data(), command="framefusion ask a.mp4 'is <it> --here?' --keep 0.2")
    page = render(data)
    assert "<pre" in page
    assert "".join(Outline(page[page.index("<pre") : page.index("</pre>") + 6]).texts) == data.command


def test_setting_names_are_escaped():
    data = dataclasses.replace(samples.data(), settings=[(samples.NASTY, "1")])
    assert Outline(render(data)).named("script") == [{}]


@pytest.mark.parametrize("layers", [2, 4, 28, 80])
def test_chart_has_a_bar_per_layer(layers):
    data = samples.data(layers=layers)
    bars = [r for r in Outline(render(data)).named("rect") if r["class"] == "bar"]
    heights = [float(bar["height"]) for bar in bars]
    assert heights == pytest.approx([100 * present / 120 for present in data.tokens_per_layer], abs=0.01)


def test_without_comparison_segments_merges_or_question():
    plain = render(samples.data(compared=False, segmented=False))
    assert "With all" not in plain
    assert "answers are" not in plain
    assert "Segment 1" not in plain
    assert "counts as one segment" in plain
    data = samples.data()
    unasked = render(dataclasses.replace(data, question=None, answer=None, full_answer=None))
    assert "What was kept of" in unasked
    assert 'class="answers"' not in unasked
    untouched = render(dataclasses.replace(data, stages=[]))
    assert "every visual token reached every layer" in untouched


def test_a_bar_has_the_parts_with_and_without_reduction():
    data = samples.data()
    bars = [t for t in Outline(render(data)).named("i") if "flex-grow" in t.get("style", "")]
    names = ["decode", "processor", "tower", "projector", "prefill", "other"]
    assert [bar["class"] for bar in bars] == 2 * names
    shares = [float(bar["style"].split(":")[1]) for bar in bars]
    both = (data.full_times, data.times)
    assert shares == pytest.approx([100 * getattr(t, n) / t.first_token for t in both for n in names], abs=1e-3)
    # Growths that sum to less than 1 would not fill the bar.
    assert sum(shares[: len(names)]) == pytest.approx(100, abs=1)
    widths = re.findall(r'class="whole" style="width:([\d.]+)%"', render(data))
    assert [float(width) for width in widths] == pytest.approx([100, 100 * 0.21 / 0.36], abs=0.01)


def test_what_was_not_measured_has_no_bar():
    times = Times(prefill=0.2).answered(0.25, None)
    page = render(dataclasses.replace(samples.data(compared=False), times=times))
    assert 'class="tower"' not in page
    assert "not measured" in page
    untimed = render(dataclasses.replace(samples.data(), times=Times(), full_times=None))
    assert "Where the time" not in untimed
    assert "first token after 150 ms" in untimed


def test_the_page_says_what_its_numbers_are_of():
    """The same time and the same compute as the lines on a terminal, by the same names."""
    data = samples.data()
    page, told = render(data), dict(lines(data))
    assert "<dt>End to end</dt>" in page
    assert "360 ms → 210 ms to the first token</dd>" in page
    assert "360 ms → 210 ms to the first token" in told["End to end"]
    assert "Compute is that of vision tower, projector, decoder and language-model head" in page
    alone = dataclasses.replace(data, encoder_flops=None, times=Times(), full_times=None)
    page, told = render(alone), dict(lines(alone))
    assert "<dt>In generate()</dt>" in page
    assert "300 ms → 150 ms to the first token</dd>" in page
    assert "300 ms → 150 ms to the first token" in told["In generate()"]
    assert "Compute is" not in page


def test_verdict_compares_the_answers():
    data = samples.data()
    assert "The answers are the same" in render(data)
    assert "The answers differ" in render(dataclasses.replace(data, full_answer="blue square"))
    assert "no text" in render(dataclasses.replace(data, answer=""))


@pytest.fixture(scope="module")
def browser():
    with chromium.Chromium() as running:
        yield running


@pytest.fixture
def page(tmp_path):
    def write(data):
        path = tmp_path / "report.html"
        path.write_text(render(data), encoding="utf-8")
        return path.as_uri()

    return write


VISIBLE = """[...document.querySelectorAll(%r)].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && getComputedStyle(e).visibility == 'visible';
}).map(e => e.innerText ?? e.tagName)"""


@needs_chromium
def test_browser_shows_everything_and_asks_for_nothing(browser, page):
    data = samples.data()
    address = page(data)
    browser.open(address)
    assert [url for url in browser.requests if not url.startswith("data:")] == [address]
    assert browser.evaluate(VISIBLE % "h1") == ["what came after the red circle?"]
    assert browser.evaluate(VISIBLE % ".answer") == [data.full_answer, data.answer]
    assert len(browser.evaluate(VISIBLE % ".strip .window img:not(.mask)")) == 5
    assert len(browser.evaluate(VISIBLE % ".stage .window img:not(.mask)")) == 1
    assert len(browser.evaluate(VISIBLE % "svg .bar")) == 4
    segments = browser.evaluate(VISIBLE % ".strip h3")
    assert [text.split(" ")[1] for text in segments] == ["1", "2"]
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert "25.0 %" in browser.evaluate("document.querySelector('.numbers').innerText")
    # the masks are where the frames are
    assert browser.evaluate(
        "[...document.querySelectorAll('.window')].every(w => { const [a, ...masks] = [...w.children].map(c => "
        "c.getBoundingClientRect()); return masks.length == 2 && masks.every(b => Math.abs(a.width - b.width) < 1 && "
        "Math.abs(a.height - b.height) < 1) })"
    )


@needs_chromium
def test_browser_runs_no_code_from_texts(browser, page):
    browser.open(page(samples.data(samples.NASTY)))
    assert browser.evaluate("document.title") == f"{samples.NASTY} · framefusion"
    assert browser.evaluate("document.querySelector('h1').textContent") == samples.NASTY
    assert browser.evaluate("document.scripts.length") == 1


SEEN = """[...document.querySelectorAll('.mask')].map(m => getComputedStyle(m).opacity).join('')"""
COUNTS = VISIBLE % ".strip .count"


@needs_chromium
def test_one_chooses_behind_which_stage_frames_are_drawn(browser, page):
    data = samples.data(frames=2)
    browser.open(page(data))
    for chosen, masks, place in (("drawn1", "01", 1), ("drawn0", "10", 0), ("whole", "00", 1)):
        browser.evaluate(f"document.querySelector('label[for={chosen}]').click()")
        assert browser.evaluate(SEEN) == masks * 3, chosen
        kept = [int((view.views[place] == KEPT).sum()) for view in data.frames]
        assert browser.evaluate(COUNTS) == [f"{count} of 24" for count in kept]
    # with the keys alone
    browser.evaluate("document.querySelector('#whole').focus()")
    browser.key("ArrowLeft")
    assert browser.evaluate(SEEN) == "01" * 3


PLACE = "document.querySelector('.stage b').textContent"
SLIDER = "document.querySelector('.timeline input')"


@needs_chromium
def test_player_goes_from_frame_to_frame(browser, page):
    browser.open(page(samples.data()))
    assert browser.evaluate(PLACE) == "1 / 5"
    source = "document.querySelector('%s img').src"
    for number, act in enumerate(
        (
            f"{SLIDER}.value = 1; {SLIDER}.dispatchEvent(new Event('input'))",
            "document.querySelectorAll('.step')[1].click()",
            "document.querySelectorAll('.strip li')[3].click()",
        ),
        start=1,
    ):
        browser.evaluate(act)
        assert browser.evaluate(PLACE) == f"{number + 1} / 5"
        assert browser.evaluate(f"{SLIDER}.value") == str(number)
        assert browser.evaluate(source % ".stage") == browser.evaluate(source % f".strip li:nth-child({number + 1})")
        chosen = browser.evaluate(
            "[...document.querySelectorAll('.strip li')].map(e => e.classList.contains('chosen'))"
        )
        assert chosen == [place == number for place in range(5)]
    browser.evaluate("document.querySelectorAll('.step')[0].click()")
    assert browser.evaluate(PLACE) == "3 / 5"


@needs_chromium
def test_player_needs_no_mouse(browser, page):
    browser.open(page(samples.data()))
    browser.evaluate(f"{SLIDER}.focus()")
    browser.key("ArrowRight")
    assert browser.evaluate(PLACE) == "2 / 5"
    browser.key("End")
    assert browser.evaluate(PLACE) == "5 / 5"
    assert browser.evaluate(f"{SLIDER}.getAttribute('aria-valuetext')").startswith("Frame 5 at 4.0 s: ")
    browser.evaluate("document.querySelector('.play').focus()")
    browser.key("ArrowLeft")
    assert browser.evaluate(PLACE) == "4 / 5"
    browser.key("ArrowLeft")
    assert browser.evaluate(PLACE) == "3 / 5"


@needs_chromium
def test_player_plays_to_the_end_and_can_be_stopped(browser, page):
    browser.open(page(samples.data(frames=40)))
    words = "document.querySelector('.play').textContent"
    # The clock of the page is ours, so that no wait decides.
    browser.evaluate("window.setInterval = act => { window.tick = act; return 7 }; window.clearInterval = () => {}")
    press = "document.querySelector('.play').click()"
    browser.evaluate(press)
    assert browser.evaluate(words) == "Pause"
    browser.evaluate("tick(); tick()")
    assert browser.evaluate(PLACE) == "3 / 40"
    browser.evaluate(press)
    assert browser.evaluate(words) == "Play"
    browser.evaluate(press)
    browser.evaluate("for (let i = 0; i < 37; i++) tick()")
    assert (browser.evaluate(PLACE), browser.evaluate(words)) == ("40 / 40", "Play")
    browser.evaluate(press)
    assert browser.evaluate(PLACE) == "1 / 40"


@needs_chromium
def test_without_scripts_all_frames_stand_there(browser, tmp_path):
    path = tmp_path / "plain.html"
    path.write_text(render(samples.data()).replace("<script>", '<script type="text/plain">'), encoding="utf-8")
    browser.open(path.as_uri())
    assert browser.evaluate(VISIBLE % ".player") == []
    assert len(browser.evaluate(VISIBLE % ".strip .window img:not(.mask)")) == 5
    assert browser.evaluate(SEEN) == "01" * 5


@needs_chromium
def test_question_answer_and_frame_are_seen_at_once(browser, page):
    """On a desktop without scrolling, controls included."""
    browser.open(page(samples.data(frames=30)), width=1100, height=900)
    for part in ("h1", ".answers", ".stage .window", ".legend", ".controls"):
        assert browser.evaluate(f"document.querySelector('{part}').getBoundingClientRect().bottom") <= 900, part
    assert browser.evaluate("document.querySelector('.stage .window').getBoundingClientRect().height") >= 300


@needs_chromium
def test_on_a_phone_the_strip_follows_the_player(browser, page):
    browser.open(page(samples.data(frames=64)), width=390, height=844)
    assert browser.evaluate("document.querySelector('.strip').getBoundingClientRect().height") < 200
    browser.evaluate(f"{SLIDER}.value = 40; {SLIDER}.dispatchEvent(new Event('input'))")
    left, right = browser.evaluate(
        "(() => { const b = document.querySelector('.chosen').getBoundingClientRect(); return [b.left, b.right] })()"
    )
    assert 0 <= left < right <= 390
    assert browser.evaluate("scrollY") == 0


def test_a_page_of_many_frames_is_bounded():
    # Noise is the worst that a codec can be given.
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    view = dataclasses.replace(samples.data(frames=1).frames[0], picture=noise, segment=0)
    data = samples.data(frames=1, segmented=False)
    sizes = {}
    for count in (64, 256, 1000):
        frames = [dataclasses.replace(view, seconds=float(number)) for number in range(count)]
        page = render(dataclasses.replace(data, frames=frames))
        sizes[count] = len(page)
        assert page.count("<figure>") == min(count, 256)
        assert ("256 of 1,000 frames are shown" in page) == (count > 256)
    assert max(sizes.values()) < 12e6
    assert sizes[1000] < 1.1 * sizes[256]


def test_segments_of_which_no_frame_is_shown_have_no_heading():
    rows = [SegmentRow(n, first, last, 0.0, 1, 1, 0) for n, (first, last) in enumerate([(0, 2), (3, 3), (4, 9)])]
    assert {at: row.number for at, row in _beginning(rows, [0, 2, 5, 8]).items()} == {0: 0, 5: 2}


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1100])
def test_browser_needs_no_sideways_scrolling(browser, page, width, scheme):
    long = samples.data("Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen_" * 4, frames=12, layers=28)
    browser.open(page(long), width=width, scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("innerWidth") == width


CONTRAST = """(() => {
    const parse = c => c.match(/[\\d.]+/g).map(Number);
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b };
    const ground = e => { while (e) { const c = parse(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] == 1) return c; e = e.parentElement } return [255, 255, 255] };
    let worst = [99, ''];
    for (const e of document.body.querySelectorAll('*')) {
        if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) continue;
        const [a, b] = [lum(parse(getComputedStyle(e).color)), lum(ground(e))].sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 80)];
    }
    return worst;
})()"""


@needs_chromium
def test_both_schemes_have_contrast_and_differ(browser, page):
    grounds = []
    for scheme in ("light", "dark"):
        browser.open(page(samples.data()), scheme=scheme)
        ratio, where = browser.evaluate(CONTRAST)
        assert ratio >= 4.5, (scheme, where)
        grounds.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]
