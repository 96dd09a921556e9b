"""Draw the picture on top of the README, docs/images/kept.png: ``python scripts/picture.py``.

The bundled model answers a question about the bundled video with all tokens and with a fifth of them.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import framefusion
from framefusion.asking.report import report_data
from framefusion.asking.report.frames import marked
from framefusion.assets import DEMO_VIDEO

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images" / "kept.png"
QUESTION = "which large thing came after the red circle?"
KEEP = 0.2
FRAMES, SHOWN = 16, 6
WIDTH, GAP, MARGIN, LINE = 250, 10, 24, 44
GROUND, WORDS, FAINT = (24, 27, 33), (236, 238, 241), (160, 167, 176)


def main() -> None:
    answer = framefusion.ask(DEMO_VIDEO, QUESTION, keep=KEEP, frames=FRAMES, compare=True)
    assert answer.full is not None
    frames = report_data(answer).frames
    chosen = [frames[round(place * (len(frames) - 1) / (SHOWN - 1))] for place in range(SHOWN)]
    pictures = [Image.fromarray(frame.picture) for frame in chosen]
    height = round(WIDTH * pictures[0].height / pictures[0].width)
    before, after = answer.summary.visual_tokens_before, answer.summary.visual_tokens_after
    rows = [
        (f"What the camera saw: {before:,} tokens", answer.full.text, [p.resize((WIDTH, height)) for p in pictures]),
        (f"What the model reads: {after:,} tokens", answer.text, [marked(frame, WIDTH) for frame in chosen]),
    ]
    size = (2 * MARGIN + SHOWN * (WIDTH + GAP) - GAP, MARGIN + LINE + len(rows) * (LINE + height + GAP) + MARGIN)
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(30), ImageFont.load_default(24)
    draw.text((MARGIN, MARGIN), f"“{QUESTION}”", fill=WORDS, font=large)
    top = MARGIN + LINE
    for title, text, shown in rows:
        draw.text((MARGIN, top + LINE / 2), title, fill=FAINT, font=small, anchor="lm")
        draw.text((size[0] - MARGIN, top + LINE / 2), f"answer: {text}", fill=WORDS, font=small, anchor="rm")
        for number, picture in enumerate(shown):
            sheet.paste(picture, (MARGIN + number * (WIDTH + GAP), top + LINE))
        top += LINE + height + GAP
    sheet.quantize(256, Image.Quantize.MEDIANCUT).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
