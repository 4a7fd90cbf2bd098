#!/usr/bin/env bash
# A member who says what cannot be: tests/abuse/claims.py.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/abuse/claims.py" "$@"
