#!/usr/bin/env bash
# Two real sites behind a WAN, under chaos, checked at the end by scripts/local-federation itself.
# Closes with `N passed, N failed`.
set -u
. "$(dirname "$0")/verdict.sh"
programs=${ATOLL_BIN:-$root/build/release/bin}
mkdir "$place/data"
for text in austen bible perl python; do
    cat "$root"/docs/*.md "$root"/fed/*.c >"$place/data/$text.txt"
done
cat >"$place/wan.yaml" <<'YAML'
duration: 15s
model: {parameters: 20000}
run: {inner_steps: 4, warmup_steps: 0, staleness_cap: 64}
defaults: {batch_tokens: 256, checkpoint: 2s,
           link: {up: 20Mbit/s, rtt: 60ms, jitter: 5ms, loss: 0.1%}}
sites:
  - {name: near, step: 50ms}
  - {name: far, step: 70ms, link: {rtt: 200ms, resets: {every: 5s, regular: true}}}
YAML

check() { # NAME: the command of that name succeeds
    "$1" >"$place/out" 2>&1
    verdict "$1" $?
}

federation() {
    "$root/scripts/local-federation" --programs "$programs" --data "$place/data" --shape tiny \
        --wan "$place/wan.yaml" --output "$place/federation" "$@"
}
# Seed 5: whatever it draws, everything that was acknowledged must be in the ledger once, and all
# roots equal.
nothing_acknowledged_is_lost_under_chaos_and_all_roots_are_equal() {
    federation --chaos 5 --chaos-every 1
}
a_wrong_file_is_refused_with_its_line() {
    sed 's/rtt: 60ms/rtt: 60/' "$place/wan.yaml" >"$place/wrong.yaml"
    ! "$root/scripts/local-federation" --programs "$programs" --wan "$place/wrong.yaml" \
        --output "$place/federation" 2>"$place/message" &&
        grep -q 'wrong.yaml:5' "$place/message"
}
a_bar_that_is_missed_is_a_failure() { ! federation --seconds 4 --require-busy 1.01; }
check nothing_acknowledged_is_lost_under_chaos_and_all_roots_are_equal
check a_wrong_file_is_refused_with_its_line
check a_bar_that_is_missed_is_a_failure
finish
