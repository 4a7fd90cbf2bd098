#!/usr/bin/env bash
# scripts/check-code finds each kind of violation in a small tree, and says nothing of one that is
# in order.
set -u
. "$(dirname "$0")/verdict.sh"

check() { "$root/scripts/check-code" "$place/tree" >"$place/out" 2>&1; }
tree() { # a tree that is in order
    rm -rf "$place/tree"
    mkdir -p "$place/tree/base" "$place/tree/scripts" "$place/tree/tests/golden"
    echo '/* A thing. */' >"$place/tree/base/thing.c"
}
body() { # LINES [COMMENT [COMMENT-INSIDE]]: a function of so many lines
    [ -z "${2-}" ] || echo "$2"
    printf 'static int long_one(int a,\n                    int b) {\n'
    [ -z "${3-}" ] || echo "    $3"
    for ((i = 4 ${3:++ 1}; i < $1; i++)); do echo '    a += b;'; done
    printf '    return a;\n}\n'
}
plant() { # NAME FILE WORDS-IN-THE-COMPLAINT; the text by stdin
    tree
    cat >>"$place/tree/$2"
    ! check && grep -q -e "$3" "$place/out"
    verdict "$1" $?
}
passes() { # NAME FILE; the text by stdin
    tree
    cat >>"$place/tree/$2"
    check
    verdict "$1" $?
}

"$root/scripts/check-code" "$root" >"$place/out" 2>&1
verdict the_tree_is_in_order $?

wide=$(printf 'ö%.0s' {1..101})
plant a_line_of_101_columns_is_found scripts/x '^scripts/x:1: 101 columns' <<<"$wide"
passes a_line_of_100_columns_passes_however_many_bytes_it_has scripts/x <<<"${wide%ö}"
plant a_long_line_of_a_makefile_is_found Makefile '^Makefile:1: 101' <<<"$wide"
passes golden_data_may_be_long tests/golden/x.txt <<<"$wide"
passes an_address_may_be_long scripts/x <<<"# https://a.example/$(printf 'a%.0s' {1..100})"

passes a_function_of_70_lines_passes base/thing.c < <(body 70)
plant a_function_of_71_lines_is_found base/thing.c 'thing.c:2: a function of 71 lines' < <(body 71)
plant one_in_cuda_is_found base/thing.cu 'thing.cu:1: a function of 71 lines' < <(body 71)
plant a_comment_is_not_a_reason base/thing.c 'of 71 lines' < <(body 71 '/* It is what it is. */')
plant an_empty_reason_is_none base/thing.c 'of 71 lines' < <(body 71 '/* long: */')
passes a_reason_above_is_enough base/thing.c < <(body 71 '/* long: one case per kind */')
passes a_reason_in_two_slashes_is_enough base/thing.cu < <(body 71 '// long: one case per kind')
passes a_reason_inside_is_enough base/thing.c < <(body 71 '' '/* long: one case per kind */')
plant the_reason_of_another_function_does_not_count base/thing.c 'of 71 lines' \
    < <(body 20 '/* long: once */' && body 71)
passes a_table_may_have_any_length base/thing.c \
    < <(printf 'static const int table[] = {\n%s};\n' "$(printf '    %d,\n' {1..90})")

plant an_assert_that_calls_is_found base/thing.c 'thing.c:2: an ASSERT that contains work (sign)' \
    <<<'void f(void) { ASSERT(sign(1) == OK); }'
plant an_assert_over_two_lines_is_found base/thing.c 'contains work (sign)' \
    <<<$'void f(void) {\n    ASSERT(a &&\n           sign(1) == OK);\n}'
plant an_assert_that_counts_is_found base/thing.c 'contains work (++)' \
    <<<'void f(int i) { ASSERT(i++ < 3); }'
plant an_assert_that_assigns_is_found base/thing.c 'contains work (=)' \
    <<<'void f(int i) { ASSERT((i = 3)); }'
passes an_assert_that_only_looks_passes base/thing.c \
    <<<'void f(int i) { ASSERT(i >= 3 && i != 4 && strlen("sign(1)") == 7 && merkle_size(t)); }'
passes must_is_for_work base/thing.c <<<'void f(void) { MUST(sign(1)); }'

finish
