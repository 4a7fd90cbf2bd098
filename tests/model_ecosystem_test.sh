#!/usr/bin/env bash
# The trainer as its users meet it: its verbs, and transformers on both sides of a checkpoint
# (tests/model_ecosystem_test.py).
exec "$(dirname "$0")/with_python" "$(dirname "$0")/model_ecosystem_test.py" "$@"
