"""A training job's rank at its site."""
from __future__ import annotations

import ctypes
import logging
import math
import types
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from . import _launch, _library, _pieces
from ._library import ADD, AWAY, LOAD, OK, PUBLISH, AtollError

LOG = logging.getLogger("atoll")
AGAIN_STEPS = 16  # all ranks try at the same step to attach to a node that was away


class Site:
    """Made by `join`. Everything happens after `optimizer.step()`; `step` is for loops that have no
    torch optimizer."""

    def __init__(self, parameters: List[_pieces.Held], options: _library.Options,
                 tokens_per_step: int, optimizer: Any = None,
                 state: Optional[Dict[str, Any]] = None) -> None:
        self._library = _library.load()
        self._parameters, self._options = parameters, options
        self._handle: Optional[ctypes.c_void_p] = None
        self._tokens, self._steps = int(tokens_per_step), 0
        self._over = self._away = False
        # a scheduler of the script's may have changed it already
        self._groups = [(group, group.get("initial_lr", group["lr"]))
                        for group in optimizer.param_groups] if optimizer else []
        self._factor = math.nan
        self.loss: Any = None  # of the last step, where the loop tells it: for the run's figures
        self._attach(bytes.fromhex(state["state"]) if state else b"")
        self._say_resumed(state)
        self._schedule()

    # ---- looking ----
    @property
    def stopping(self) -> bool:
        """The run is over; the loop may end."""
        return self._over or bool(self._handle and self._library.atoll_stopping(self._handle))

    @property
    def away(self) -> bool:
        """The node is not there; training goes on, and the rank attaches again once it is."""
        return self._away

    @property
    def version(self) -> int:
        return int(self._library.atoll_run_version(self._handle)) if self._handle else 0

    @property
    def steps(self) -> int:
        """Since the job attached first."""
        return self._steps

    @property
    def inner_steps(self) -> int:
        return int(self._library.atoll_inner_steps(self._handle)) if self._handle else 0

    @property
    def lost(self) -> int:
        """Steps of a life before that are in no publication, where this one could not go on from
        them."""
        return int(self._library.atoll_lost(self._handle)) if self._handle else 0

    @property
    def ahead(self) -> int:
        """After a checkpoint was loaded: so many steps after it are in the run already. They are
        trained again here, and count for nothing."""
        return int(self._library.atoll_ahead(self._handle)) if self._handle else 0

    @property
    def unpublished(self) -> int:
        """Steps since the last publication: what a detach loses."""
        return int(self._library.atoll_unpublished(self._handle)) if self._handle else 0

    # ---- checkpoints ----
    def state_dict(self) -> Dict[str, Any]:
        """For the job's checkpoint, beside the parameters as they are now: to be called on all
        ranks after the same step. The node keeps what belongs to the last two."""
        state, kept = self._state()
        if state and not kept:
            LOG.warning("the node does not keep this state: %s", self._message())
        return {"steps": int(self._library.atoll_job_steps(self._handle)) if state else 0,
                "state": state.hex()}

    def load_state_dict(self, saved: Dict[str, Any]) -> None:
        """After the parameters of the same checkpoint were loaded, on all ranks. What the run did
        since is added to them; `lost` and `ahead` say the rest. `join(state=...)` does it at
        once."""
        self._leave()
        self._attach(bytes.fromhex(saved["state"]))
        self._say_resumed(saved)

    def _state(self) -> Tuple[bytes, bool]:
        if not self._handle:
            return b"", False
        state = ctypes.create_string_buffer(_library.STATE_SIZE)
        size = ctypes.c_size_t()
        result = self._library.atoll_state(self._handle, state, ctypes.byref(size))
        return state.raw[:size.value], result == OK

    def _say_resumed(self, state: Optional[Dict[str, Any]] = None) -> None:
        if state and state["steps"] and not self._library.atoll_job_steps(self._handle):
            LOG.warning("the checkpoint is of another run or site, or ranks have different ones: "
                        "the newest model was loaded, and its %d steps do not count here",
                        state["steps"])
        if self.lost:
            LOG.warning("%d steps of before are lost: the newest model was loaded", self.lost)
        if self.ahead:
            LOG.info("the next %d steps are in the run already: they count for nothing", self.ahead)

    # ---- the end ----
    def _leave(self) -> None:
        if self._handle:
            self._over = self._over or self.stopping
            self._library.atoll_detach(self._handle)
        self._handle = None

    def detach(self) -> None:
        """What was trained since the last publication is lost to the run, unless a job goes on from
        a checkpoint of now."""
        if self._handle and self.unpublished and not self.stopping:
            LOG.warning("%d steps since the last publication are not in the run", self.unpublished)
        self._leave()

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: Any) -> None:
        self.detach()

    # ---- attaching ----
    def _message(self) -> str:
        return str(self._library.atoll_message(self._handle).decode(errors="replace"))

    def _declare(self) -> int:
        pieces = (_library.Piece * max(len(self._parameters), 1))()
        for at, held in enumerate(self._parameters):
            pieces[at] = _pieces.piece_of(held.name, held.parameter)
        return int(self._library.atoll_declare(self._handle, pieces, len(self._parameters)))

    def _attach(self, state: bytes = b"") -> None:
        """In place of the handle there is, which stays where this one is not taken and the
        parameters are as they were."""
        before, handle, touched = self._handle, ctypes.c_void_p(), False
        result = self._library.atoll_attach(ctypes.byref(self._options), ctypes.byref(handle))
        self._handle = handle
        if result == OK:
            result = self._declare()
        if result == OK and state:
            result = self._library.atoll_resume(handle, state, len(state), before)
        while result == OK:
            result = self._library.atoll_ready(handle)
            if result not in (LOAD, ADD):
                break
            touched = True
            self._copy_in(self._library.atoll_copy_in if result == LOAD
                          else self._library.atoll_add)
            result = self._library.atoll_applied(handle)
        message = self._message()
        if result != OK:
            self._leave()
            self._handle = before
        if before and (result == OK or touched):
            self._library.atoll_detach(before)
            self._handle = handle if result == OK else None
        if result != OK:
            raise AtollError(message)

    def _attach_again(self) -> None:
        try:
            self._attach(self._state()[0])
            self._away = False
            LOG.info("attached again")
            self._say_resumed()
        except AtollError as error:
            LOG.info("the node is still away: %s", error)

    # ---- what is ordered ----
    def _concerned(self) -> List[Tuple[int, _pieces.Held]]:
        return [(at, held) for at, held in enumerate(self._parameters)
                if self._library.atoll_concerns(self._handle, at)]

    @staticmethod
    def _host(values: Any) -> Any:
        """fp32, on the host, contiguous: the tensor itself where it is all that."""
        return values.to("cpu").contiguous()

    def _copy_out(self) -> None:
        for at, held in self._concerned():
            host = self._host(held.values())
            self._library.atoll_copy_out(self._handle, at, host.data_ptr())

    def _copy_in(self, how: Callable[..., int]) -> None:
        for at, held in self._concerned():
            values = held.values()
            host = self._host(values)
            how(self._handle, at, host.data_ptr())
            if host.data_ptr() != values.data_ptr():
                values.copy_(host)
            held.refresh()

    def _schedule(self, always: bool = False) -> None:
        if not self._handle:
            return
        factor = float(self._library.atoll_schedule_factor(self._handle))
        if factor == self._factor and not always:
            return
        self._factor = factor
        for group, peak in self._groups:
            group["lr"] = peak * factor

    def step(self, tokens: Optional[int] = None) -> None:
        """After each optimizer step; `join` arranges it for a torch optimizer."""
        self._steps += 1
        loss = math.nan if self.loss is None else float(self.loss)
        result = self._library.atoll_step(self._handle, tokens or self._tokens, loss) \
            if self._handle else AWAY
        if result == PUBLISH:
            self._copy_out()
            result = self._library.atoll_published(self._handle)
        elif result in (ADD, LOAD):
            self._copy_in(self._library.atoll_add if result == ADD
                          else self._library.atoll_copy_in)
            result = self._library.atoll_applied(self._handle)
        if result == AWAY:
            if not self._away:
                LOG.warning("the node is away; training goes on without it")
            self._away = True
            if self._steps % AGAIN_STEPS == 0 and not self.stopping:
                self._attach_again()
        elif result != OK:
            raise AtollError(self._message())
        self._schedule()


def follow(optimizer: Any, site: Site) -> None:
    """After each step of the optimizer, a step of the site."""
    if hasattr(optimizer, "register_step_post_hook"):
        optimizer.register_step_post_hook(lambda *_: site.step())
        return
    wrapped = optimizer.step

    def step(_: Any, *arguments: Any, **named: Any) -> Any:
        result = wrapped(*arguments, **named)
        site.step()
        return result
    optimizer.step = types.MethodType(step, optimizer)


def unwrapped(optimizer: Any) -> Any:
    """Accelerate's stands around torch's."""
    while hasattr(optimizer, "optimizer") and hasattr(optimizer.optimizer, "param_groups"):
        optimizer = optimizer.optimizer
    return optimizer


def join(model: Any, optimizer: Any, tokens_per_step: int, directory: Optional[str] = None,
         rank: Optional[int] = None, world: Optional[int] = None, generation: Optional[int] = None,
         socket: Optional[str] = None, timeout: float = 60.0,
         state: Optional[Dict[str, Any]] = None,
         masters: Optional[Mapping[Any, Any]] = None,
         names: Optional[_pieces.Names] = None) -> Site:
    """Attaches this rank, and loads the run's model into it; to be called on every rank, after
    DDP(), fully_shard() or compile().

    optimizer: None where the loop calls site.step() itself after each step.
    tokens_per_step: of the whole job, in one step of the optimizer.
    directory: the site's; unset, ATOLL_DIR of the environment.
    state: of a checkpoint whose parameters were loaded into the model, state_dict()'s; then the job
    goes on from there rather than from the run's newest model.
    masters: for parameters that are not fp32, the fp32 tensors that the optimizer changes in their
    place, by parameter. Those of Megatron, Apex and Transformer Engine are found without it.
    names: from a parameter's name here to the run's, where they differ; a mapping or a function.
    Unset, those are the names that PEFT or transformers save the parameter under.
    """
    found = _launch.rank_and_world()
    options = _library.Options(directory=_launch.directory(directory).encode(),
                               socket=socket.encode() if socket else None,
                               rank=found[0] if rank is None else rank,
                               world=found[1] if world is None else world,
                               generation=_launch.generation() if generation is None
                               else generation,
                               timeout_ms=int(timeout * 1000))
    optimizer = unwrapped(optimizer)
    held = _pieces.trained(model, optimizer, masters, names)
    site = Site(held, options, tokens_per_step, optimizer, state)
    if optimizer is not None:
        follow(optimizer, site)
    return site
