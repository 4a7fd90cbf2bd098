#!/usr/bin/env bash
# Two real sites behind a WAN, under chaos, checked at the end by scripts/local-federation itself.
# Closes with `N passed, N failed`.
set -u
root=${ATOLL_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
programs=${ATOLL_BIN:-$root/build/release/bin}
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
passed=0 failed=0
mkdir "$directory/data"
for text in austen bible perl python; do cat "$root"/docs/*.md "$root"/fed/*.c >"$directory/data/$text.txt"; done
cat >"$directory/wan.yaml" <<'YAML'
duration: 15s
model: {parameters: 20000}
run: {inner_steps: 4, warmup_steps: 0, staleness_cap: 64}
defaults: {batch_tokens: 256, checkpoint: 2s, link: {up: 20Mbit/s, rtt: 60ms, jitter: 5ms, loss: 0.1%}}
sites:
  - {name: near, step: 50ms}
  - {name: far, step: 70ms, link: {rtt: 200ms, resets: {every: 5s, regular: true}}}
YAML

check() { # NAME: the command succeeds
    local name=$1
    shift
    if "$@" >"$directory/log" 2>&1; then
        passed=$((passed + 1)) && echo "ok   $name"
    else
        failed=$((failed + 1)) && echo "FAIL $name" && tail -n 25 "$directory/log"
    fi
}

federation() {
    "$root/scripts/local-federation" --programs "$programs" --data "$directory/data" --shape tiny --wan "$directory/wan.yaml" \
        --output "$directory/out" "$@"
}
# Seed 5: whatever it draws, everything that was acknowledged must be in the ledger once, and all
# roots equal.
under_chaos() { federation --chaos 5 --chaos-every 1; }
a_wrong_file_is_refused() {
    sed 's/rtt: 60ms/rtt: 60/' "$directory/wan.yaml" >"$directory/wrong.yaml"
    ! "$root/scripts/local-federation" --programs "$programs" --wan "$directory/wrong.yaml" --output "$directory/out" 2>"$directory/message" &&
        grep -q 'wrong.yaml:4' "$directory/message"
}
a_bar_that_is_missed_is_a_failure() { ! federation --seconds 4 --require-busy 1.01; }
check nothing_acknowledged_is_lost_under_chaos_and_all_roots_are_equal under_chaos
check a_wrong_file_is_refused_with_its_line a_wrong_file_is_refused
check a_bar_that_is_missed_is_a_failure a_bar_that_is_missed_is_a_failure
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
