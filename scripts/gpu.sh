#!/usr/bin/env bash
# Run everything that wants a GPU (benchmarks/gpu), within nine minutes and without a network.
#
# PYTHON brings torch, Triton and transformers. It stays as it is: an environment on top of it gets what it lacks from
# the wheels in wheels/gpu, if there are any (make gpu-wheels, where there is a network).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:?usage: scripts/gpu.sh PYTHON OUT [--rehearse] [--parts PART...]}
out=$(realpath -m "${2:?usage: scripts/gpu.sh PYTHON OUT [--rehearse] [--parts PART...]}")
shift 2
case $python in */*) python=$(realpath -s "$python") ;; esac
cd "$root"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv --without-pip --system-site-packages "$work/venv"
# An environment on top of another one has the packages of the Python below both, not the other's.
"$python" - "$work/venv/bin/python" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

folders = [path for path in sys.path if path.endswith("-packages")]
command = [sys.argv[1], "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
own = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
(own / "below.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in folders))
PYTHON

export PYTHONPATH=$root/src
export PYTHONDONTWRITEBYTECODE=1
mapfile -t missing < <("$work/venv/bin/python" -m benchmarks.gpu.missing wheels/gpu)
if [ -n "${missing[0]:-}" ]; then
    echo "installing ${missing[*]##*/}"
    "$python" -m pip --disable-pip-version-check -q --python "$work/venv/bin/python" \
        install --no-index --no-deps --no-compile "${missing[@]}"
fi
"$work/venv/bin/python" -m benchmarks.gpu "$out" "$@"
