#!/usr/bin/env bash
# 600 join races, rivals and replays, each counted once: tests/abuse/races.py.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/abuse/races.py" "$@"
