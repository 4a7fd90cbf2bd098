#!/usr/bin/env bash
# One site without a coordinator: atoll-node's train --standalone, eval and generate.
# tests/model_alone_test.py says what.
exec python3 "$(dirname "$0")/model_alone_test.py" "$@"
