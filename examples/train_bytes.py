#!/usr/bin/env python3
"""A small Llama on the bytes of a text, in the manner of nanoGPT: one file, one loop. The lines
that end in `# atoll` are all that makes it train in a federation; without them it trains alone.

    ATOLL_DIR=SITE examples/train_bytes.py TEXT [--steps N] [--hidden 160 --layers 4 ...]
"""
import argparse
import math

import torch
from torch import nn
from torch.nn import functional

import atoll  # atoll


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.heads, self.kv_heads, self.size = o.heads, o.kv_heads, o.hidden // o.heads
        self.q_proj = nn.Linear(o.hidden, o.hidden, bias=False)
        self.k_proj = nn.Linear(o.hidden, o.kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(o.hidden, o.kv_heads * self.size, bias=False)
        self.o_proj = nn.Linear(o.hidden, o.hidden, bias=False)
        angle = torch.outer(torch.arange(o.context), 10000.0 ** (
            -torch.arange(0, self.size, 2).float() / self.size)).repeat(1, 2)
        self.cos, self.sin = angle.cos(), angle.sin()
        self.mask = torch.full((o.context, o.context), -math.inf).triu(1)

    def turn(self, x):
        half = self.size // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * self.cos[:x.shape[-2]] + turned * self.sin[:x.shape[-2]]

    def forward(self, x):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv_heads, self.size).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv_heads, self.size).transpose(1, 2)
        q, k = self.turn(q), self.turn(k)
        k = k.repeat_interleave(self.heads // self.kv_heads, 1)
        v = v.repeat_interleave(self.heads // self.kv_heads, 1)
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.size) + self.mask[:t, :t]
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.gate_proj = nn.Linear(o.hidden, o.ffn, bias=False)
        self.up_proj = nn.Linear(o.hidden, o.ffn, bias=False)
        self.down_proj = nn.Linear(o.ffn, o.hidden, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(o.hidden), Norm(o.hidden)
        self.self_attn, self.mlp = Attention(o), Mlp(o)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.embed_tokens = nn.Embedding(256, o.hidden)
        self.layers = nn.ModuleList(Block(o) for _ in range(o.layers))
        self.norm = Norm(o.hidden)


class Llama(nn.Module):
    """The names of its parameters are those of the run's layout."""

    def __init__(self, o):
        super().__init__()
        self.model = Decoder(o)

    def forward(self, tokens, targets):
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x)
        logits = self.model.norm(x) @ self.model.embed_tokens.weight.T
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batches(path, o):
    with open(path, "rb") as file:
        data = torch.tensor(list(file.read()))
    generator = torch.Generator().manual_seed(o.seed)
    while True:
        at = torch.randint(len(data) - o.context - 1, (o.batch,), generator=generator)
        rows = torch.stack([data[i:i + o.context + 1] for i in at])
        yield rows[:, :-1], rows[:, 1:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    for name, value in (("hidden", 160), ("layers", 4), ("heads", 5), ("kv-heads", 5), ("ffn", 448),
                        ("context", 128), ("batch", 8), ("steps", 1_000_000), ("seed", 1)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    o = parser.parse_args()
    torch.manual_seed(o.seed)
    model = Llama(o)
    optimizer = torch.optim.AdamW(model.parameters(), lr=o.learning_rate, betas=(0.9, 0.95),
                                  weight_decay=0.1)
    site = atoll.join(model, optimizer, tokens_per_step=o.batch * o.context)  # atoll
    for step, (tokens, targets) in enumerate(batches(o.text, o)):
        loss = model(tokens, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        site.loss = loss.item()  # atoll
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f}", flush=True)
        if site.stopping or step + 1 == o.steps:  # atoll
            break


if __name__ == "__main__":
    main()
