#!/usr/bin/env bash
# Programs by the names of their Debian packages, as far as they are not there: root installs them. Exit code 1, and a
# line that says what to do, where one is still missing.
set -euo pipefail

missing=()
for program in "$@"; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    if apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
        exit 0
    fi
fi
echo "not found: ${missing[*]}. Install them with your system's package manager; what needs them is left out until then." >&2
exit 1
