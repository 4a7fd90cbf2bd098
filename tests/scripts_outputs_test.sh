#!/usr/bin/env bash
# Where scripts write, and what they leave alone (tests/scripts_outputs_test.py).
exec "$(dirname "$0")/with_python" "$(dirname "$0")/scripts_outputs_test.py" "$@"
