"""Attaches a training job to its site's atoll-node.

    import atoll
    site = atoll.join(model, optimizer, tokens_per_step=batch * length)
    for batch in loader:
        loss = train(batch)            # the loop stays as it is
        if site.stopping: break

The node exchanges what is trained with the other sites of the run; H, the schedule of the learning
rate and the model's start come from the run. docs/trainers.md has the details.
"""
from ._hf import HFCallback
from ._library import AtollError
from ._site import Site, join

__all__ = ["AtollError", "HFCallback", "Site", "join"]
