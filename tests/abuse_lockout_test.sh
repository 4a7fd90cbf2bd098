#!/usr/bin/env bash
# Strangers and members who occupy what they can: tests/abuse/lockout.py.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/abuse/lockout.py" "$@"
