#!/usr/bin/env bash
# Installing below a DESTDIR: programs that run, manual pages and completion made of their tables,
# units, and a removal that leaves nothing of ours and everything of others.
set -u
. "$(dirname "$0")/verdict.sh"
bin=${ATOLL_BIN:-$root/build/release/bin}
programs=(atoll-coordinator atoll-node atollctl atoll-sim atoll-wan-proxy atoll-trainer)
installed=$place/usr
mkdir -p "$installed/bin" "$installed/share/doc/atoll"
echo theirs >"$installed/bin/another"
echo theirs >"$installed/share/doc/atoll/notes"
cp "$bin/atoll-wan-proxy" "$place/atoll-kernels-cuda.so" # any library does here
"$root/scripts/install-files" "$place" /usr "${programs[@]/#/$bin/}" \
    "$place/atoll-kernels-cuda.so" "$bin/../lib/libatoll.so.0" >"$place/out" 2>&1
verdict everything_is_installed $?

all_there() {
    local path
    [ "$(wc -l <"$installed/share/atoll/installed")" -gt 20 ] || return 1
    while IFS= read -r path; do
        [ -s "$place$path" ] || { echo "  $path is not there"; return 1; }
    done <"$installed/share/atoll/installed"
    [ -f "$installed/lib/atoll/atoll-kernels-cuda.so" ]
}
all_there
verdict the_list_names_what_is_there $?

versions() {
    local name
    for name in "${programs[@]}"; do
        [ "$("$installed/bin/$name" --version)" = "$name $(cat "$root/VERSION")" ] ||
            { echo "  $name says another version"; return 1; }
    done
}
versions
verdict every_program_runs_and_says_the_one_version $?

! grep -rlF "$root" "$installed/bin" "$installed/lib" "$installed/share/man" \
    "$installed/share/bash-completion"
verdict nothing_names_the_build_directory $?

pages() {
    local page
    for page in "$installed"/share/man/man1/*.1; do
        grep -q '^\.SH NAME$' "$page" && grep -q '^\.SH DESCRIPTION$' "$page" ||
            { echo "  $page lacks a section"; return 1; }
        if command -v groff >/dev/null; then
            [ -z "$(groff -man -ww -z "$page" 2>&1)" ] || { groff -man -ww -z "$page"; return 1; }
        fi
    done
    grep -q 'dry.*run' "$installed/share/man/man1/atollctl.1" &&
        ! grep -rn 'cuda.-library' "$installed/share/man"
}
pages
verdict manual_pages_have_every_command_and_no_hidden_option $?

complete_line() { # WORD... -> what would be offered for the last one
    bash -c 'shopt -s extglob; source "$1"; shift
             COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); "_${1//-/_}"
             printf "%s\n" "${COMPREPLY[@]}"' \
        - "$installed/share/bash-completion/completions/$1" "$@"
}
completions() {
    [ "$(complete_line atollctl si)" = site ] || return 1
    [ "$(complete_line atollctl site rev)" = revoke ] || return 1
    complete_line atollctl site invite --na | grep -qx -- --name || return 1
    ! complete_line atollctl site list --na | grep -qx -- --name || return 1
    [ "$(complete_line atollctl --format j)" = json ] || return 1
    [ "$(complete_line atollctl run status --format j)" = json ]
}
completions
verdict completion_offers_commands_flags_and_choices $?

# A stranger's program, by pkg-config; strict C99, no names beside atoll_*, and libc alone.
libatoll() {
    local flags
    cat >"$place/job.c" <<'END'
#include <atoll.h>
#include <stdio.h>
int main(void) {
    struct atoll_options options = {.directory = "/nowhere", .world = 1};
    atoll_site *site;
    int result = atoll_attach(&options, &site);
    printf("%d %s\n", result, atoll_message(site));
    atoll_detach(site);
    return 0;
}
END
    flags=$(PKG_CONFIG_PATH=$installed/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$place \
        pkg-config --cflags --libs libatoll) || return 1
    # shellcheck disable=SC2086
    gcc -std=c99 -Wall -Wextra -Wpedantic -Werror -I"$installed/include" -o "$place/job" \
        "$place/job.c" -L"$installed/lib" $flags || return 1
    LD_LIBRARY_PATH=$installed/lib "$place/job" | grep -q '^-1 /nowhere/attach.token: ' || return 1
    ! nm -D --defined-only "$installed/lib/libatoll.so.0" |
        grep -Ev ' (atoll_[a-z_]+|LIBATOLL_0)' || return 1
    [ "$(objdump -p "$installed/lib/libatoll.so.0" | grep -c NEEDED)" = 1 ]
}
libatoll
verdict a_program_in_c99_links_libatoll_by_pkg_config $?

! grep -rn '@PREFIX@' "$installed/lib/systemd" && grep -q '^ExecStart=/usr/bin/atoll-node run' \
    "$installed/lib/systemd/system/atoll-node@.service"
verdict units_start_what_was_installed $?

"$root/scripts/install-files" --remove "$place" /usr >"$place/out" 2>&1 &&
    [ "$(find "$installed" -type f | sort)" = \
        "$(printf '%s\n' "$installed/bin/another" "$installed/share/doc/atoll/notes")" ]
verdict removal_leaves_only_what_is_not_ours $?
find "$installed" -type f

! "$root/scripts/install-files" --remove "$place" /usr >"$place/out" 2>&1 &&
    grep -q 'nothing is installed' "$place/out"
verdict removing_twice_says_that_nothing_is_there $?

! "$root/scripts/install-files" "$place" usr "$bin/atollctl" >"$place/out" 2>&1 &&
    grep -q 'absolute path' "$place/out"
verdict a_relative_prefix_is_refused $?

finish
