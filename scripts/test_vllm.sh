#!/usr/bin/env bash
# Run the tests that need vLLM, in a new environment of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: scripts/test_vllm.sh PYTHON}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/vllm_environment.sh "$python" "$work/venv"
TRITON_INTERPRET=0 "$work/venv/bin/python" -m pytest -p no:cacheprovider tests/vllm "${@:2}"
