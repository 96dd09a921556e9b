#!/usr/bin/env bash
# A commit's subject says one thing in at most 72 characters; the message behind it says why.
set -euo pipefail
subject=$(head -n 1 "$1")
if [ "${#subject}" -gt 72 ]; then
    echo "The subject has ${#subject} characters; shorten it to 72: $subject" >&2
    exit 1
fi
