#!/usr/bin/env bash
# Every call by every identity: tests/abuse/authorisation.py.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/abuse/authorisation.py" "$@"
