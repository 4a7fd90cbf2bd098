#!/usr/bin/env bash
# What users give to the programs: files of another kind, settings that disagree, options without
# effect. tests/inputs_test.py says what.
exec "$(dirname "$0")/with_python" "$(dirname "$0")/inputs_test.py" "$@"
