#!/usr/bin/env bash
# scripts/check-names finds each kind of violation in a small tree, and says nothing of one that is
# in order.
set -u
. "$(dirname "$0")/verdict.sh"
tree() { # a tree that is in order
    rm -rf "$place/tree"
    mkdir -p "$place/tree/base" "$place/tree/node" "$place/tree/scripts"
    printf 'struct thing { int a; };\nvoid thing_use(struct thing *thing);\n' \
        >"$place/tree/base/thing.h"
    cat >"$place/tree/base/thing.c" <<'C'
/* struct other { } in a comment, and "struct other { }" in a text */
void thing_use(struct thing *thing) {
    thing->a = 1;
}
C
    cat >"$place/tree/node/main.c" <<'C'
static int helper(int a) {
    return a;
}
int main(void) {
    struct thing thing;
    thing_use(&thing);
    return helper(1);
}
C
    : >"$place/tree/scripts/uncalled-functions"
}
check() { "$root/scripts/check-names" "$place/tree" >"$place/out" 2>&1; }
plant() { # NAME FILE TEXT WORDS-IN-THE-COMPLAINT
    tree
    printf '%b' "$3" >>"$place/tree/$2"
    ! check && grep -q "$4" "$place/out"
    verdict "$1" $?
}
"$root/scripts/check-names" "$root" >"$place/out" 2>&1
verdict the_tree_is_in_order $?
tree
check
verdict a_tree_in_order_passes $?
plant a_tag_that_is_defined_twice_is_found node/main.c \
    'struct thing {\n    long b;\n};\n' \
    'tag thing is defined in base/thing.h:1, node/main.c'
plant an_enum_of_the_same_tag_is_found node/main.c 'enum thing { A };\n' 'tag thing is defined in'
plant a_static_function_of_an_exported_name_is_found node/main.c \
    'static void thing_use(int a) {\n}\n' \
    'function thing_use is exported and defined again'
plant a_function_that_nobody_calls_is_found base/thing.c \
    'int thing_forgotten(void) {\n    return 1;\n}\n' \
    'thing_forgotten (base/thing.c:5) is called by tests only'
plant a_name_that_was_given_up_is_found node/main.c \
    'static void now_here(struct moment *out) {\n}\n' \
    'main.c:9: now_here was given up: struct instant'
tree
: >"$place/tree/base/thing_core.h"
! check && grep -q 'base/thing_core.h: a name of a file' "$place/out"
verdict a_name_of_a_file_that_was_given_up_is_found $?
tree
printf 'int thing_forgotten(void) {\n    return 1;\n}\n' >>"$place/tree/base/thing.c"
echo "thing_forgotten tests count with it" >"$place/tree/scripts/uncalled-functions"
check
verdict a_reason_is_enough $?
echo "thing_forgotten" >"$place/tree/scripts/uncalled-functions"
! check && grep -q 'needs its reason' "$place/out"
verdict a_line_without_a_reason_is_found $?
tree
echo "thing_use because" >"$place/tree/scripts/uncalled-functions"
! check && grep -q 'thing_use is called, or gone' "$place/out"
verdict a_reason_for_what_is_called_is_found $?
# Without words in the complaint, it is in order.
simulated() { # NAME TEXT-OF-sim/copy.c LINES-OF-sim-functions WORDS-IN-THE-COMPLAINT
    tree
    mkdir -p "$place/tree/sim"
    printf '%b' "$2" >"$place/tree/sim/copy.c"
    printf '%b' "$3" >"$place/tree/scripts/sim-functions"
    if [ -n "$4" ]; then ! check && grep -q "$4" "$place/out"; else check; fi
    verdict "$1" $?
}
copy='static int helper(int a) {\n    return a;\n}\n'
simulated a_function_of_the_simulator_with_a_shipped_name_is_found \
    "$copy" '' "function helper (sim/copy.c:1) is a shipped function's name"
simulated a_reason_beside_it_is_enough "$copy" 'sim/copy.c helper another thing\n' ''
simulated a_star_fits_all_of_a_file "$copy" 'sim/copy.c * a port\n' ''
simulated a_line_of_another_file_does_not_fit \
    "$copy" 'sim/other.c helper another thing\n' 'sim/copy.c:1'
simulated a_simulated_function_without_its_reason_is_found \
    "$copy" 'sim/copy.c helper\n' 'needs its reason'
simulated a_line_that_fits_nothing_is_found \
    'static int other(int a) {\n    return a;\n}\n' 'sim/copy.c helper another thing\n' \
    'fits no repeated name'

finish
