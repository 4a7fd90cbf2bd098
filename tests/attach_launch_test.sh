#!/usr/bin/env bash
# Jobs that attach, started by examples/launch: tests/attach_launch_test.py says how.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/attach_launch_test.py" "$@"
