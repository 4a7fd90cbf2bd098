#!/usr/bin/env bash
# A job that attaches beside the built-in trainer: tests/attach_parity_test.py.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/attach_parity_test.py" "$@"
