#!/usr/bin/env python3
"""A rank of a PyTorch job for tests/attach_test.py: the same steps whatever the number of ranks, as
every rank has the same data. RANK and WORLD_SIZE say which; with several, over DDP and gloo.

    attach_torch.py TEXT [--pause SECONDS]
"""
import argparse
import os
import sys
import time

import torch
from torch import nn

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "python"), os.path.join(ROOT, "examples")]
import atoll  # noqa: E402
from train_bytes import Llama, batches  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--pause", type=float, default=0.1)
    given = parser.parse_args()
    o = argparse.Namespace(hidden=32, layers=2, heads=2, kv_heads=1, ffn=64, context=32, batch=2,
                           seed=1)
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # what it begins with comes from the run
    model = Llama(o)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    site = atoll.join(model, optimizer, tokens_per_step=o.batch * o.context)
    for tokens, targets in batches(given.text, o):
        optimizer.zero_grad()
        model(tokens, targets).backward()
        optimizer.step()
        time.sleep(given.pause)
        over = torch.tensor(float(site.stopping or site.away))
        if ranks > 1:  # all end after the same step
            torch.distributed.all_reduce(over)
        if over.item():
            break


if __name__ == "__main__":
    main()
