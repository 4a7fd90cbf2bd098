#!/usr/bin/env bash
# Training jobs that attach to a site's node: tests/attach_test.py says which.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/attach_test.py" "$@"
