#!/usr/bin/env bash
# A member that floods over a long link, and what the model is worth: tests/abuse/flood.py.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/abuse/flood.py" "$@"
