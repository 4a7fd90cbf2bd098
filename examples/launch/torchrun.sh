#!/usr/bin/env bash
# A job of several ranks on one machine, by torchrun. A rank that dies has all started again, with
# the next generation (TORCHELASTIC_RESTART_COUNT), which replaces the old one at the node.
#   ATOLL_DIR=SITE examples/launch/torchrun.sh RANKS SCRIPT [ARGUMENT ...]
set -eu
: "${ATOLL_DIR:?the directory of the site, whose node runs with --attach}"
ranks=$1
shift
exec torchrun --nproc_per_node "$ranks" --max_restarts "${RESTARTS:-3}" --monitor_interval 0.5 \
    --rdzv_backend c10d --rdzv_endpoint 127.0.0.1:0 "$@"
