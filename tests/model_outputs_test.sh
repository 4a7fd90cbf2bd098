#!/usr/bin/env bash
# What programs write, tried before the work and in the order of its worth
# (tests/model_outputs_test.py).
exec "$(dirname "$0")/with_python" "$(dirname "$0")/model_outputs_test.py" "$@"
