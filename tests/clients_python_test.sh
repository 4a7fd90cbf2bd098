#!/usr/bin/env bash
# The reference client in clients/python against the real coordinator, and beside real sites.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/clients_python_test.py" "$@"
