#!/usr/bin/env bash
# Text, JSON lines and Parquet to shards of tokens (tests/scripts_prepare_data_test.py).
exec "$(dirname "$0")/with_python" "$(dirname "$0")/scripts_prepare_data_test.py" "$@"
