#!/usr/bin/env bash
# The same by mpirun (Open MPI): ranks find themselves by OMPI_COMM_WORLD_RANK. mpirun starts
# nothing again; this does, with the next generation.
#   ATOLL_DIR=SITE examples/launch/mpirun.sh RANKS SCRIPT [ARGUMENT ...]
set -u
: "${ATOLL_DIR:?the directory of the site, whose node runs with --attach}"
ranks=$1
shift
for ((generation = 0; generation <= ${RESTARTS:-3}; generation++)); do
    ATOLL_GENERATION=$generation mpirun -np "$ranks" --oversubscribe --bind-to none \
        -x ATOLL_DIR -x ATOLL_GENERATION "${PYTHON:-python3}" "$@" && exit 0
    echo "mpirun.sh: the job of generation $generation ended; starting it again" >&2
done
exit 1
