#!/usr/bin/env bash
# Run the tests that need lmms-eval, in a new environment on top of the given one, which stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: scripts/test_lmms.sh PYTHON}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }

# Installed packages of the given environment are found, not copied: torch alone would take minutes.
site=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/base.pth"
pip install -r tests/lmms/requirements.txt
pip install --no-deps lmms-eval==0.7.3
# As a wheel, whose entry point lmms-eval finds.
pip install --no-deps .
"$work/venv/bin/python" -m pytest -p no:cacheprovider tests/lmms "${@:2}"
