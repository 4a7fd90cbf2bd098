"""What this rank holds of each tensor, as a distributed checkpoint would have it. Works on torch's
parameters without importing torch."""
from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from ._library import DIMENSIONS, AtollError, Piece

WRAPPERS = ("DistributedDataParallel",)


def unwrapped(model: Any) -> Any:
    """The module whose parameters have the names of the run."""
    while True:
        if type(model).__name__ in WRAPPERS:
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def trained(model: Any) -> List[Tuple[str, Any]]:
    """Tied weights come once, under their first name; frozen ones are not exchanged."""
    named = [(name.replace("_orig_mod.", ""), parameter)
             for name, parameter in unwrapped(model).named_parameters() if parameter.requires_grad]
    for name, parameter in named:
        if str(local_of(parameter).dtype) != "torch.float32":
            raise AtollError(f"parameter {name} has type {local_of(parameter).dtype}: Atoll needs "
                             "fp32 parameters; train in bf16 with autocast or with FSDP's "
                             "MixedPrecisionPolicy, which keep them in fp32")
    return named


def is_sharded(parameter: Any) -> bool:
    return hasattr(parameter, "to_local") and hasattr(parameter, "device_mesh")


def local_of(parameter: Any) -> Any:
    return (parameter.to_local() if is_sharded(parameter) else parameter).detach()


def rectangle(name: str, parameter: Any) -> Tuple[Sequence[int], Sequence[int]]:
    """Offset and extent of this rank's part, by the protocol of distributed checkpoints."""
    if not is_sharded(parameter):
        return [0] * parameter.dim(), list(parameter.shape)
    chunks = parameter.__create_chunk_list__()
    local = local_of(parameter)
    if len(chunks) == 0 or local.numel() == 0:
        return [0] * parameter.dim(), [0] * parameter.dim()
    if len(chunks) != 1 or list(chunks[0].sizes) != list(local.shape):
        raise AtollError(f"parameter {name} is not one rectangle on this rank: {chunks}")
    return list(chunks[0].offsets), list(chunks[0].sizes)


def piece_of(name: str, parameter: Any) -> Piece:
    shape = list(parameter.shape)
    if len(shape) > DIMENSIONS:
        raise AtollError(f"parameter {name} has {len(shape)} dimensions; at most {DIMENSIONS}")
    offset, extent = rectangle(name, parameter)
    piece = Piece(name=name.encode(), flat=0, dimensions=len(shape), data=None)
    for at, (whole, start, size) in enumerate(zip(shape, offset, extent)):
        piece.shape[at], piece.offset[at], piece.extent[at] = whole, start, size
    return piece
