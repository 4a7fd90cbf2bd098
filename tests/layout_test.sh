#!/usr/bin/env bash
# Runs whose model is another architecture's: tests/layout_test.py says which.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/layout_test.py" "$@"
