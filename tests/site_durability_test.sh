#!/usr/bin/env bash
# What a site keeps, with real processes: tests/site_durability_test.py says what. Closes with `N
# passed, N failed`.
exec python3 "$(dirname "$0")/site_durability_test.py" "$@"
