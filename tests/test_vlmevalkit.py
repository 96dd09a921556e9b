"""The script of docs/guides/vlmevalkit.md, with stand-ins for what it uses of the kit."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from framefusion.asking.prompts import AskError
from framefusion.assets import BUNDLED, DEMO_VIDEO

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "vlmevalkit.md"


class BaseModel:
    """The kit's, as far as it is used: it hands a list of parts to ``generate_inner``."""

    def __init__(self) -> None:
        self.dump_image_func = None

    def generate(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        return self.generate_inner(message, dataset)  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the script puts into the kit's table, for the bundled checkpoint."""
    table: dict[str, Any] = {}
    contents: dict[str, dict[str, Any]] = {
        "vlmeval": {},
        "vlmeval.config": {"supported_VLM": table},
        "vlmeval.run": {"main": lambda: None},
        "vlmeval.vlm": {},
        "vlmeval.vlm.base": {"BaseModel": BaseModel},
    }
    for name, names in contents.items():
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    (script,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    script = re.sub(
        r'^CHECKPOINT = ".*"$', f"CHECKPOINT = {str(BUNDLED['bundled-qwen'])!r}", script, flags=re.MULTILINE
    )
    exec(compile(script, str(PAGE), "exec"), {"__name__": "reduced"})
    return table


def test_the_script_answers_about_videos_and_pictures(models, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(picture)
    question = {"type": "text", "value": "what colour is the star?"}
    for name in ("reduced-1.0", "reduced-0.3"):
        model = models[name]()
        model.nframe = 32
        assert model.generate([{"type": "video", "value": str(DEMO_VIDEO)}, question]).strip() == "green"
    assert model.generate([{"type": "image", "value": str(picture)}, question])
    with pytest.raises(AskError, match="nothing was shown yet"):
        model.generate([question])
