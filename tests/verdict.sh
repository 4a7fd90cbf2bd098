# What shell tests share. Sourced: sets `root`, and `place`, an empty directory that is deleted at
# the end. A test says `verdict NAME CODE` for each of its sentences, and `finish` at its end. What
# a check printed goes to $place/out, and is shown where it failed.
root=${ATOLL_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
passed=0 failed=0

verdict() { # NAME CODE: 0 if it held
    if [ "$2" = 0 ]; then
        passed=$((passed + 1)) && echo "ok   $1"
    else
        failed=$((failed + 1)) && echo "FAIL $1"
        [ ! -f "$place/out" ] || tail -n 25 "$place/out"
    fi
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
