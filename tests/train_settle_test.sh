#!/usr/bin/env bash
# What a manifest, a federation's file and the command line say together to atoll-sim train.
# tests/train_settle_test.py says what.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/train_settle_test.py" "$@"
