#!/usr/bin/env bash
# Training jobs with ranks on several hosts: tests/relay_test.py says which.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/relay_test.py" "$@"
