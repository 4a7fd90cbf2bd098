#!/usr/bin/env bash
# A site whose directory was copied, with real processes: tests/site_copied_test.py says what.
# Closes with `N passed, N failed`.
exec python3 "$(dirname "$0")/site_copied_test.py" "$@"
