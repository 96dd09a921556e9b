#!/usr/bin/env bash
# Build the wheel, install it alone in a new environment, and run the main job from there.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: scripts/test_package.sh PYTHON}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
ls -l "$work/dist"

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --disable-pip-version-check -q -c constraints.txt "$work"/dist/*.whl

# Away from the source tree, so that only the installed package can be found.
cd "$work"
assets=$(venv/bin/python -c 'import framefusion.assets as a; print(a.DEMO_VIDEO)')
case "$assets" in "$work"/*) ;; *) echo "the package was imported from $assets" >&2; exit 1 ;; esac
venv/bin/framefusion ask "$assets" "which large thing came after the red circle?" --cost 0.2 --report report.html | tee answer.txt
venv/bin/framefusion models
grep -q "red diamond" answer.txt
test -s report.html
echo "the wheel works on its own"
