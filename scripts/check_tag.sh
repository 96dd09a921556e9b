#!/usr/bin/env bash
# A tag names the version of the package, and the changelog has a section of it.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:?usage: scripts/check_tag.sh TAG}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/framefusion/_version.py)
if [ "$tag" != "v$version" ]; then
    echo "the tag is $tag, the version in src/framefusion/_version.py $version" >&2
    exit 1
fi
if ! grep -q "^## \[$version\] - [0-9]\{4\}-[0-9][0-9]-[0-9][0-9]$" CHANGELOG.md; then
    echo "CHANGELOG.md has no section '## [$version] - YYYY-MM-DD'" >&2
    exit 1
fi
