#!/usr/bin/env bash
# Whatever a program waits for can be interrupted: tests/interrupt_test.py. Closes with `N passed, N
# failed`.
exec python3 "$(dirname "$0")/interrupt_test.py" "$@"
