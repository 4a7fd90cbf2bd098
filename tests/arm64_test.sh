#!/usr/bin/env bash
# The training engine on 64-bit ARM, by a cross compiler and qemu: tests/arm64_test.py. Closes with
# `N passed, N failed`.
exec python3 "$(dirname "$0")/arm64_test.py" "$@"
