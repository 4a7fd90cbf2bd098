"""For transformers.Trainer: Trainer(..., callbacks=[atoll.HFCallback()])."""
from __future__ import annotations

import json
import os
from typing import Any, Optional

from ._site import Site, join

STATE = "atoll.json"  # beside the other files of a checkpoint


def step_tokens(arguments: Any, model: Any) -> int:
    """By the model's longest sequence; 1 per sample where it has none."""
    config = getattr(getattr(model, "module", model), "config", None)
    length = getattr(config, "max_position_embeddings", None) or 1
    return int(arguments.train_batch_size * arguments.gradient_accumulation_steps *
               arguments.world_size * length)


def state_of(arguments: Any, trained: int) -> Any:
    """What the checkpoint that the trainer goes on from has of us."""
    places = [os.path.join(arguments.output_dir, f"checkpoint-{trained}")]
    if isinstance(arguments.resume_from_checkpoint, str):
        places.insert(0, arguments.resume_from_checkpoint)
    for place in places if trained > 0 else ():
        path = os.path.join(place, STATE)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return json.load(file)
    return None


def HFCallback(tokens_per_step: Optional[int] = None,  # pylint: disable=invalid-name
               **options: Any) -> Any:
    """A TrainerCallback that joins when training begins, and stops it when the run is over. Its
    checkpoints hold the site's state, so that resume_from_checkpoint goes on in the run too.

    tokens_per_step: of the whole job; unset, from batch, accumulation, ranks and the model's
    longest sequence. The rest is join's. The learning rate of the arguments is the peak; their
    schedule is replaced by the run's.
    """
    from transformers import TrainerCallback

    class Callback(TrainerCallback):  # type: ignore[misc]
        site: Optional[Site] = None

        def on_train_begin(self, args: Any, state: Any, _: Any, **now: Any) -> None:
            model = now["model"]
            given = dict(state=state_of(args, state.global_step), **options)
            self.site = join(model, now["optimizer"],
                             tokens_per_step or step_tokens(args, model), **given)

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            assert self.site
            self.site._schedule(always=True)

        def on_step_end(self, _: Any, __: Any, control: Any, **___: Any) -> None:
            assert self.site
            if self.site.stopping:
                control.should_training_stop = True

        def on_log(self, _: Any, __: Any, ___: Any, logs: Any = None, **____: Any) -> None:
            if self.site and logs and "loss" in logs:
                self.site.loss = logs["loss"]

        def on_save(self, args: Any, state: Any, _: Any, **__: Any) -> None:
            assert self.site
            saved = self.site.state_dict()
            place = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            if state.is_world_process_zero and os.path.isdir(place):
                with open(os.path.join(place, STATE), "w", encoding="utf-8") as file:
                    json.dump(saved, file)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            if self.site:
                self.site.detach()

    return Callback()
