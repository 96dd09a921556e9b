#!/usr/bin/env bash
# Try a built wheel (make dist) in a new environment of its own:
#   floors   the oldest Python on this machine, every dependency at the lower bound in pyproject.toml
#   newest   the newest Python on this machine, everything in its newest release
set -euo pipefail
cd "$(dirname "$0")/.."
usage="usage: scripts/test_wheel.sh floors|newest DIRECTORY [PYTHON]"
which=${1:?$usage}
wheels=$(realpath "${2:?$usage}")
python=${3:-python3}
root=$PWD

# A Python that pyenv only knows the name of is on the PATH too, so each is run.
pythons=()
for minor in $(grep -oP 'Python :: \K3\.\d+' pyproject.toml); do
    found=
    while read -r candidate; do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$minor')" 2>/dev/null; then
            found=$candidate
            break
        fi
    done < <(type -ap "python$minor"; ls -d ~/.pyenv/versions/"$minor".*/bin/"python$minor" 2>/dev/null || true)
    echo "python$minor: ${found:-not found}"
    if [ -n "$found" ]; then pythons+=("$found"); fi
done
if [ ${#pythons[@]} -eq 0 ]; then
    echo "no Python that pyproject.toml admits was found" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# uv downloads in parallel, resolves to lower bounds, and obeys no cap of pip's configuration. Its cache, about 5 GB,
# is removed with everything else.
"$python" -m venv "$work/uv"
"$work/uv/bin/python" -m pip install --disable-pip-version-check -q uv
uv() { "$work/uv/bin/uv" --quiet --cache-dir "$work/cache" --no-python-downloads "$@"; }

case $which in
floors)
    uv venv --python "${pythons[0]}" "$work/venv"
    uv pip install --python "$work/venv/bin/python" --only-binary :all: --resolution lowest-direct -r pyproject.toml
    uv pip install --python "$work/venv/bin/python" --no-deps "$wheels"/*.whl
    ;;
newest)
    uv venv --python "${pythons[-1]}" "$work/venv"
    uv pip install --python "$work/venv/bin/python" "$wheels"/*.whl
    ;;
*)
    echo "floors or newest, not $which" >&2
    exit 1
    ;;
esac
uv pip check --python "$work/venv/bin/python"

mkdir "$work/away"
cd "$work/away"
"$work/venv/bin/python" "$root/scripts/try_wheel.py" $([ "$which" = floors ] && echo --floors)
echo "the wheel works on its own ($which)"
