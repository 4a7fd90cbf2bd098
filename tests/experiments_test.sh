#!/usr/bin/env bash
# scripts/experiments at a scale that tests can afford: every table, every curve, nothing run twice.
# tests/experiments_test.py says what.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/experiments_test.py" "$@"
