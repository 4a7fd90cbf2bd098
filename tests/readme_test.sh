#!/usr/bin/env bash
# Every command that README.md prints, run as printed: tests/readme_test.py says how.
exec python3 "$(dirname "$0")/readme_test.py" "$@"
