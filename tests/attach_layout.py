#!/usr/bin/env python3
"""A rank of a PyTorch job for tests/torch_attach.py, in one of the layouts that python/atoll takes.
RANK and WORLD_SIZE say which rank.

    attach_layout.py LAYOUT TEXT [--real] [--steps N] [--pause SECONDS]

Each step is forward and backward over the same batch; then, unless --real, gradients are replaced
by a function of the parameter alone, so that every layout has the same parameters bit for bit.
"""
import argparse
import os
import sys
import time

import torch
from torch import distributed, nn

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "python"), os.path.join(ROOT, "examples")]
import atoll  # noqa: E402
from train_bytes import Llama, batches  # noqa: E402

SHAPE = argparse.Namespace(hidden=32, layers=2, heads=2, kv_heads=1, ffn=64, context=32, batch=2,
                           seed=1)


class WithHead(nn.Module):
    """Tied weights under two names, and a frozen tensor that the run does not have."""

    def __init__(self, model):
        super().__init__()
        self.model = model.model
        self.whole = [model]
        self.lm_head = nn.Linear(SHAPE.hidden, 256, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight
        self.frozen = nn.Parameter(torch.ones(7, 3), requires_grad=False)

    def forward(self, tokens, targets):
        return self.whole[0](tokens, targets) * self.frozen.mean()


class MasterSGD(torch.optim.Optimizer):
    """SGD on fp32 masters of what are bf16 parameters; the masters are where Transformer Engine has
    them."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["master_param"] = p.detach().float()

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                master = self.state[p]["master_param"]
                master.sub_(replaced(master) * group["lr"])
                p.copy_(master)


def replaced(parameter):
    return parameter.detach() * 0.05


def mesh(*sizes):
    from torch.distributed.device_mesh import init_device_mesh
    return init_device_mesh("cpu", sizes, mesh_dim_names=("outer", "inner")[:len(sizes)])


def fully_sharded(model, over):
    from torch.distributed.fsdp import fully_shard
    for layer in model.model.layers:
        fully_shard(layer, mesh=over)
    fully_shard(model, mesh=over)
    return model


def tensor_parallel(model, over):
    from torch.distributed.tensor.parallel import (ColwiseParallel, RowwiseParallel,
                                                   parallelize_module)
    for layer in model.model.layers:
        parallelize_module(layer.mlp, over, {"gate_proj": ColwiseParallel(),
                                             "up_proj": ColwiseParallel(),
                                             "down_proj": RowwiseParallel()})
    return model


def both(model, over):
    """Columns are cut twice: by torch's _StridedShard."""
    return fully_sharded(tensor_parallel(model, over["inner"]), over["outer"])


LAYOUTS = {
    "plain": lambda model, _: model,
    "head": lambda model, _: WithHead(model),
    "compile": lambda model, _: torch.compile(model, backend="eager"),
    "ddp": lambda model, _: nn.parallel.DistributedDataParallel(model),
    "fsdp": lambda model, world: fully_sharded(model, mesh(world)),
    "hsdp": lambda model, world: fully_sharded(model, mesh(2, world // 2)),
    "tp": lambda model, world: tensor_parallel(model, mesh(world)),
    "fsdp_tp": lambda model, world: both(model, mesh(world // 2, 2)),
    "masters": lambda model, _: model.bfloat16(),
    "bf16": lambda model, _: model.bfloat16(),
    "scaler": lambda model, _: model,
    "accumulation": lambda model, _: model,
}


def one_step(given, model, optimizer, scaler, data):
    optimizer.zero_grad()
    parts = 3 if given.layout == "accumulation" else 1
    for _ in range(parts):
        tokens, targets = next(data)
        with torch.autocast("cpu", torch.bfloat16, enabled=given.layout == "masters"):
            loss = model(tokens, targets) / parts
        scaler.scale(loss).backward() if scaler else loss.backward()
    if not given.real:
        factor = scaler.get_scale() if scaler else 1
        for p in model.parameters():
            if p.requires_grad:
                p.grad = (replaced(p) * factor).to(p.dtype)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    return loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("layout", choices=sorted(LAYOUTS))
    parser.add_argument("text")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--pause", type=float, default=0.1)
    given = parser.parse_args()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # what it begins with comes from the run
    if world > 1:
        distributed.init_process_group("gloo")
    model = LAYOUTS[given.layout](Llama(SHAPE), world)
    trained = [p for p in model.parameters() if p.requires_grad]
    rate = 0.5 if given.real else 1.0
    optimizer = (MasterSGD if given.layout == "masters" else torch.optim.SGD)(trained, lr=rate)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if given.layout == "scaler" else None
    data = batches(given.text, SHAPE)
    if given.layout in ("fsdp", "hsdp", "tp", "fsdp_tp"):
        # a forward before: fully_shard's root is then unsharded
        with torch.no_grad():
            model(*next(data))
    site = atoll.join(model, optimizer, tokens_per_step=SHAPE.batch * SHAPE.context)
    while True:
        loss = one_step(given, model, optimizer, scaler, data)
        loss = loss.detach().clone()
        site.loss = loss.item()
        print("loss", loss.item(), flush=True)
        time.sleep(given.pause)
        over = torch.tensor(float(site.stopping or site.away))
        if world > 1:  # all end after the same step
            distributed.all_reduce(over)
        if over.item():
            break
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
