"""What this rank holds of each tensor, as a distributed checkpoint would have it. Works on torch's
parameters without importing torch."""
from __future__ import annotations

import sys
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ._library import DIMENSIONS, AtollError, Piece

Names = Union[Mapping[str, str], Callable[[str], str]]
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


class Held:
    """A trained parameter, and what of it is exchanged: itself, or its optimizer's fp32 master."""

    def __init__(self, name: str, parameter: Any, master: Any) -> None:
        self.name, self.parameter, self.master = name, parameter, master

    def values(self) -> Any:
        return local_of(self.parameter if self.master is None else self.master)

    def refresh(self) -> None:
        """The parameter as its master is now."""
        if self.master is not None:
            local_of(self.parameter).copy_(local_of(self.master))


def is_fp32(parameter: Any) -> bool:
    return str(local_of(parameter).dtype) == "torch.float32"


def master_of(parameter: Any, optimizer: Any, masters: Optional[Mapping[Any, Any]]) -> Any:
    """As the caller says, as Megatron has it, or as Apex and Transformer Engine have it."""
    for given, master in (masters or {}).items():
        if given is parameter:
            return master
    main = getattr(parameter, "main_param", None)
    if main is not None:
        return main
    return optimizer.state.get(parameter, {}).get("master_param") if optimizer is not None else None


def held(name: str, parameter: Any, optimizer: Any, masters: Optional[Mapping[Any, Any]]) -> Held:
    if is_fp32(parameter):
        return Held(name, parameter, None)
    kind = str(local_of(parameter).dtype).replace("torch.", "")
    master = master_of(parameter, optimizer, masters)
    if master is None:
        raise AtollError(f"parameter {name} is {kind}, and the optimizer has no fp32 master of it: "
                         "give join(masters={parameter: master}), or keep parameters in fp32 and "
                         "train in bf16 by autocast or FSDP's MixedPrecisionPolicy")
    if not is_fp32(master) or list(local_of(master).shape) != list(local_of(parameter).shape):
        raise AtollError(f"parameter {name} is {kind}, and its master is not the same in fp32: "
                         f"{local_of(master).dtype} {list(local_of(master).shape)}")
    return Held(name, parameter, master)


def run_name(module: Any, name: str) -> str:
    """As the run has it; of an adapter as PEFT saves it, which is without the adapter's name."""
    name = name.replace("_orig_mod.", "")
    adapter = getattr(module, "active_adapter", None) if hasattr(module, "peft_config") else None
    if not isinstance(adapter, str):
        return name
    if f".modules_to_save.{adapter}" in name:
        return name.replace(f".modules_to_save.{adapter}", "", 1)
    before, found, after = (name + ".").rpartition(f".{adapter}.")
    return f"{before}.{after}"[:-1] if found else name


def file_names(module: Any, parameters: Mapping[str, Any]) -> Dict[str, str]:
    """Of a transformers model, which may have other names in memory than in its files: what
    save_pretrained makes of each, by the same function. Nothing where that joins or splits tensors:
    then a run is made of what is in memory (save_pretrained(..., save_original_format=False))."""
    revert = getattr(sys.modules.get("transformers.core_model_loading"),
                     "revert_weight_conversion", None)
    library = sys.modules.get("transformers")
    if revert is None or not isinstance(module, getattr(library, "PreTrainedModel", ())):
        return {}
    empty = sys.modules["torch"].empty  # type: ignore[attr-defined]
    marks = {name: empty(tuple(parameter.shape), device="meta")
             for name, parameter in parameters.items()}
    found = {id(mark): name for name, mark in revert(module, dict(marks)).items()}
    if any(id(mark) not in found for mark in marks.values()):
        return {}
    return {name: found[id(mark)] for name, mark in marks.items()}


def check_wrappers(module: Any) -> None:
    """What packs parameters so that they have no places of their own would be misread."""
    for one in module.modules():
        if type(one).__name__ == "FullyShardedDataParallel":
            raise AtollError("the model is wrapped by FullyShardedDataParallel (FSDP1), whose flat "
                             "parameters no rectangle describes: use fully_shard (FSDP2)")
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise AtollError(f"parameter {name} is partitioned by DeepSpeed ZeRO-3, and is not "
                             "here: use stage 1 or 2, or fully_shard (FSDP2)")


def trained(model: Any, optimizer: Any = None, masters: Optional[Mapping[Any, Any]] = None,
            names: Optional[Names] = None) -> List[Held]:
    """Tied weights come once, under their first name; frozen ones are not exchanged."""
    module = unwrapped(model)
    check_wrappers(module)
    if hasattr(module, "reshard"):  # fully_shard's root holds whole tensors after a forward
        module.reshard()
    found = {name: parameter for name, parameter in module.named_parameters()
             if parameter.requires_grad and parameter.numel() > 0}
    before = {name: run_name(module, name) for name in found}
    if names is None:
        names = file_names(module, {before[name]: found[name] for name in found})
    rename = names if callable(names) else lambda name: names.get(name, name)
    taken: Dict[str, str] = {}
    for name in found:
        other = taken.setdefault(rename(before[name]), name)
        if other != name:
            raise AtollError(f"parameters {other} and {name} would both be {rename(before[name])} "
                             "in the run: rename one, in the model or by join(names=...)")
    return [held(there, found[name], optimizer, masters) for there, name in taken.items()]


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
