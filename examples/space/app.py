"""The page of ``framefusion app`` as a Hugging Face Space, with limits for visitors who share one small machine.

``python app.py`` runs it anywhere, on port 7860. On a GPU, another model answers with
``MODEL = ["--model", "Qwen/Qwen2.5-VL-7B-Instruct", "--dtype", "bfloat16"]``.
"""

import os
import sys

MODEL: list[str] = []
LIMITS = ["--max-upload", "50MiB", "--max-length", "2m", "--max-frames", "32", "--max-visits", "8", "--idle", "10m"]

os.execv(sys.executable, [sys.executable, "-m", "framefusion", "app", "--host", "0.0.0.0", *MODEL, *LIMITS])
