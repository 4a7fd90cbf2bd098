"""Which rank this is, of how many, and of which generation of the job, as its launcher says."""
from __future__ import annotations

import os
import sys
from typing import Optional, Tuple

RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"),
         ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
RESTARTS = ("ATOLL_GENERATION", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT",
            "JOBSET_RESTART_ATTEMPT")


def rank_and_world() -> Tuple[int, int]:
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    for rank, world in RANKS:
        if rank in os.environ and world in os.environ:
            return int(os.environ[rank]), int(os.environ[world])
    return 0, 1


def generation() -> int:
    for name in RESTARTS:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def directory(given: Optional[str]) -> str:
    found = given or os.environ.get("ATOLL_DIR")
    if not found:
        raise ValueError("the site's directory is not known: give join(directory=...), or set "
                         "ATOLL_DIR")
    return found
