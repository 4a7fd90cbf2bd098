#!/usr/bin/env bash
# The system's limits, met with real programs: tests/limits_test.py. Closes with `N passed, N
# failed`.
exec python3 "$(dirname "$0")/limits_test.py" "$@"
