#!/usr/bin/env bash
# A new environment with vLLM's CPU build and this project, for its tests and its benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: scripts/vllm_environment.sh PYTHON DIRECTORY}
directory=${2:?usage: scripts/vllm_environment.sh PYTHON DIRECTORY}

"$python" -m venv "$directory"
pip() { "$directory/bin/python" -m pip --disable-pip-version-check -q "$@"; }
pip install -r tests/vllm/requirements.txt
# Both want CUDA and are imported where they are found; torchvision as well, but transformers needs its image functions.
pip uninstall -y torchaudio torchcodec
"$directory/bin/python" - <<'PYTHON'
from importlib.util import find_spec
from pathlib import Path

start = Path(find_spec("torchvision").origin)
# Its operators do not load beside torch's CPU build; what it registers for them wants their schemas all the same.
schemas = """import torch as _torch
_schemas = _torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _schemas.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
start.write_text(schemas + start.read_text())
PYTHON
# As a wheel, whose entry point vLLM finds.
pip install --no-deps .
