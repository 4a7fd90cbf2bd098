#!/usr/bin/env bash
# The words hold, and scripts/check-words would say so if they did not: each kind of mark is planted
# in a copy.
set -u
. "$(dirname "$0")/verdict.sh"

"$root/scripts/check-words" "$root" >"$place/out" 2>&1
verdict the_tree_is_in_order $?

# The exit code of the check over a tree of that file and of 1,500 harmless lines.
check() { # FILE TEXT
    rm -rf "$place/tree"
    mkdir -p "$place/tree/$(dirname "$1")" "$place/tree/base"
    yes '/* there is no more to say behind a proxy */ int harmless;' | head -1500 \
        >"$place/tree/base/long.c"
    printf '%b\n' "$2" >"$place/tree/$1"
    "$root/scripts/check-words" "$place/tree" >"$place/out" 2>&1
}
plant() { # NAME FILE TEXT WORDS-IN-THE-COMPLAINT
    check "$2" "$3"
    local code=$?
    [ "$code" = 1 ] && grep -q -e "$4" "$place/out"
    verdict "$1" $?
}
passes() { # NAME FILE TEXT
    check "$2" "$3"
    verdict "$1" $?
}

# One in a string is one too many.
plant whoever_in_a_string_is_found node/x.c \
    '/* X. */ f("ask whoever runs it");' '^node/x.c:1: "whoever"'
plant to_be_had_in_a_string_is_found node/x.c '/* X. */ f("none is to be had");' 'to be had'
plant will_not_do_in_a_string_is_found node/x.c \
    '/* X. */ f("\\\\"%s\\\\" will not do");' 'will not do'
plant but_for_in_a_string_is_found node/x.c '/* X. */ f("all but for one");' 'but for'
plant behind_for_after_in_a_string_is_found node/x.c \
    '/* X. */ f("a value behind the flag");' 'behind'
plant is_no_for_is_not_a_in_a_string_is_found node/x.c '/* X. */ f("%s is no file");' 'is no'
plant wants_for_needs_in_a_string_is_found node/x.c '/* X. */ f("--wan wants a file");' 'wants'
plant a_for_per_in_a_string_is_found node/x.c '/* X. */ f("4 bytes a parameter");' 'write per'
plant a_mark_over_two_literals_of_a_string_is_found node/x.c \
    '/* X. */ f("this is "\n  "no file");' 'is no'
plant a_mark_in_a_scripts_message_is_found scripts/x 'echo "--data wants a folder"' 'wants'
plant a_mark_in_a_python_scripts_message_is_found scripts/x.py \
    'fail("--data wants a folder")' 'wants'
# Of comments and documents the share counts: one in 1,500 lines passes, three do not.
passes one_mark_in_a_comment_of_many_lines_passes node/x.c '/* whoever comes */'
plant three_marks_in_comments_are_too_many node/x.c \
    '/* whoever */\n/* is no lock */\n// wants it' 'node/x.c:3'
plant three_marks_in_a_document_are_too_many docs/x.md \
    'Whoever comes.\n\nIt is no\nlock, but for one.' 'docs/x.md:3'
plant a_long_line_of_a_document_is_found docs/x.md \
    "$(printf 'word %.0s' {1..21})" 'columns; at most 100'
long=$(printf 'word %.0s' {1..30})
passes tables_links_and_code_may_be_long docs/x.md \
    "| $long |\n[a](https://a.b) $long\n\`\`\`\n$long\n\`\`\`"
plant a_file_that_does_not_say_what_it_is_for_is_found node/x.c \
    '#include "node/x.h"' 'node/x.c:1: no comment'
plant a_file_that_is_named_but_not_there_is_found docs/x.md \
    'See `node/gone.c` for it.' 'docs/x.md:1: there is no node/gone.c'
plant a_link_that_leads_nowhere_is_found docs/x.md \
    'See [it](gone.md).' 'docs/x.md:1: there is no docs/gone.md'
passes right_uses_of_the_same_words_pass node/x.c \
    '/* X. */ f("there is no file; it is no longer here; the clock is behind; once a second");'

finish
