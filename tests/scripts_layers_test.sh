#!/usr/bin/env bash
# The layers hold, and scripts/check-layers would say so if they did not: each kind of violation is
# planted in a copy.
set -u
. "$(dirname "$0")/verdict.sh"

"$root/scripts/check-layers" "$root" >"$place/out" 2>&1
verdict the_tree_is_in_order $?

plant() { # NAME FILE INCLUDE WORDS-IN-THE-COMPLAINT
    mkdir -p "$place/tree/scripts"
    cp "$root/scripts/check-layers" "$place/tree/scripts/"
    for folder in base kernels config crypto storage rpc proto codec model fed run node \
        coordinator sim; do
        mkdir -p "$place/tree/$folder"
    done
    printf '#include %s\n' "$3" >"$place/tree/$2"
    "$place/tree/scripts/check-layers" "$place/tree" >"$place/out" 2>&1
    local code=$?
    [ "$code" != 0 ] && grep -q "$4" "$place/out"
    verdict "$1" $?
    rm -rf "$place/tree"
}
plant an_adapter_that_includes_another_is_found \
    rpc/call.c '"storage/store.h"' 'rpc/ may not include storage/'
plant node_including_coordinator_is_found \
    node/x.c '"coordinator/server.h"' 'node/ may not include coordinator/'
plant base_including_anything_is_found \
    base/x.h '"kernels/kernels.h"' 'base/ may not include kernels/'
plant a_library_outside_its_folder_is_found node/x.c '<lmdb.h>' 'only storage/ may'
plant openssl_outside_crypto_is_found fed/x.c '<openssl/evp.h>' 'only crypto/ may'
plant the_simulator_including_a_shell_is_found sim/x.c '"node/daemon.h"' 'only the pure cores'
plant fed_including_model_is_found fed/x.c '"model/layout.h"' 'fed/ may not include model/'
plant a_thread_of_the_coordinator_that_knows_another_is_found \
    coordinator/intake.c '"coordinator/publisher.h"' 'only its loop and server'
plant a_thread_of_the_coordinator_that_knows_the_loop_is_found \
    coordinator/publisher.h '"coordinator/loop.h"' 'only its loop and server'

finish
