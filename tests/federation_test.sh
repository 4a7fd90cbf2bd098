#!/usr/bin/env bash
# End-to-end tests with real processes: tests/federation_test.py says which. Closes with `N passed,
# N failed`.
exec python3 "$(dirname "$0")/federation_test.py" "$@"
