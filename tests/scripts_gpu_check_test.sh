#!/usr/bin/env bash
# The check for a machine with a GPU, over the emulation, and the report of it
# (tests/scripts_gpu_check_test.py).
exec "$(dirname "$0")/with_python" "$(dirname "$0")/scripts_gpu_check_test.py" "$@"
