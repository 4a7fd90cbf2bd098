#!/usr/bin/env bash
# The programs as their users meet them on the command line: tests/programs_test.py says what.
exec python3 "$(dirname "$0")/programs_test.py" "$@"
