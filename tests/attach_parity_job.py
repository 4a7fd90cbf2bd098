#!/usr/bin/env python3
"""The built-in trainer's data, in its order, and its optimizer, as a job of PyTorch's that
attaches: for tests/attach_parity_test.py, which compares what both have learned.

    attach_parity_job.py TEXT --sequences N --learning-rate RATE
"""
import argparse
import os
import sys

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "python"), os.path.join(ROOT, "examples")]
import atoll  # noqa: E402
from train_bytes import Llama  # noqa: E402

MASK = (1 << 64) - 1
SHAPE = argparse.Namespace(hidden=32, layers=2, heads=2, kv_heads=1, ffn=64, context=32)


def splitmix64(state):
    state = (state + 0x9e3779b97f4a7c15) & MASK
    z = ((state ^ (state >> 30)) * 0xbf58476d1ce4e5b9) & MASK
    z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & MASK
    return state, z ^ (z >> 31)


def random_hash(seed, position):
    """base/random.h"""
    mixed = splitmix64(seed)[1] ^ (position * 0xd1342543de82ef95 & MASK)
    return splitmix64(splitmix64(mixed)[0])[1]


def permute(index, count, key):
    half = 1
    while half < 32 and count > 1 << 2 * half:
        half += 1
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            left, right = right, left ^ (random_hash(key, turn << 32 | right) & mask)
        index = left << half | right
        if index < count:
            return index


def windows(text, seed, length):
    """model/data.c, of one file of text of which a fiftieth is held out."""
    size, epoch = len(text) - int(len(text) * 0.02), 0
    while True:
        offset = random_hash(seed ^ 0x6f66667365740000, epoch * 0x10001 & MASK) % length
        count = (size - offset - 1) // length
        for index in range(count):
            at = offset + permute(index, count, random_hash(seed, epoch)) * length
            yield text[at:at + length + 1]
        epoch += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--sequences", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    given = parser.parse_args()
    with open(given.text, "rb") as file:
        text = torch.tensor(list(file.read()))
    model = Llama(SHAPE)
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=given.learning_rate, betas=(0.9, 0.95), eps=1e-8)
    site = atoll.join(model, optimizer, tokens_per_step=given.sequences * SHAPE.context)
    data = windows(text, random_hash(1, 1), SHAPE.context)
    while not site.stopping:
        rows = torch.stack([next(data) for _ in range(given.sequences)])
        loss = model(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        site.loss = loss.item()
        optimizer.step()


if __name__ == "__main__":
    main()
