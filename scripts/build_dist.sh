#!/usr/bin/env bash
# Build wheel and source archive of framefusion and of each package in packages/ into a directory, in the place of older
# ones, and check them.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: scripts/build_dist.sh PYTHON DIRECTORY}
directory=${2:?usage: scripts/build_dist.sh PYTHON DIRECTORY}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --disable-pip-version-check -q uv
uv() { "$work/venv/bin/uv" --quiet --cache-dir "$work/cache" --no-python-downloads "$@"; }
mkdir -p "$directory"
rm -f "$directory"/*.whl "$directory"/*.tar.gz
# Wheels are built from the source archives, which so prove that they suffice.
for package in . packages/*; do uv build --python "$python" --out-dir "$directory" "$package"; done

"$python" scripts/check_dist.py "$directory"
uv tool run --python "$python" twine check --strict "$directory"/*.whl "$directory"/*.tar.gz
uv tool run --python "$python" check-wheel-contents "$directory"/*.whl
