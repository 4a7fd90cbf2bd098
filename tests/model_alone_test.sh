#!/usr/bin/env bash
# One machine without a coordinator: atoll-trainer's train, eval and generate.
# tests/model_alone_test.py says what.
exec python3 "$(dirname "$0")/model_alone_test.py" "$@"
