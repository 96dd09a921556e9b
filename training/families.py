"""The architectures that can be trained, by the name of ``--family``."""

from __future__ import annotations

from llava import Llava
from model import Family
from qwen import Qwen

FAMILIES: dict[str, Family] = {"llava": Llava(), "qwen": Qwen()}
