#!/usr/bin/env bash
# The trainer as its users meet it: its verbs, scripts/prepare-data, and transformers on both sides of a checkpoint where it is installed
# (ATOLL_TEST_PYTHON names the interpreter that has it). tests/model_ecosystem_test.py says which. Closes with `N passed, N failed`.
exec "${ATOLL_TEST_PYTHON:-python3}" "$(dirname "$0")/model_ecosystem_test.py" "$@"
