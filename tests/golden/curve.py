"""Loss curves of PyTorch from the same weights and batches as tests/model_curve_test.c:
tests/golden/model_curve.txt.

    python3 tests/golden/curve.py        needs torch, transformers and numpy

Weights, tokens and the model are made here anew from their definitions (model/layout.h,
base/random.h), independently of the C code; transformers' LlamaForCausalLM in float32 trains on
them with PyTorch's AdamW. A line a step: the loss before its update.
"""
import os
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

V, D, L, H, KV, F, T, B, STEPS = 64, 32, 2, 4, 2, 48, 32, 8, 500
M = np.uint64(0xFFFFFFFFFFFFFFFF)
u = np.uint64


def splitmix(state):
    """Returns (new state, output), on arrays of uint64."""
    state = state + u(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> u(30))) * u(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> u(27))) * u(0x94D049BB133111EB)
    return state, z ^ (z >> u(31))


def random_hash(seed, position):
    with np.errstate(over="ignore"):
        _, mixed = splitmix(np.array(seed, dtype=np.uint64))
        mixed = mixed ^ (np.asarray(position, dtype=np.uint64) * u(0xD1342543DE82EF95))
        mixed, _ = splitmix(mixed)
        return splitmix(mixed)[1]


def values(start, count, scale):
    index = np.arange(start, start + count, dtype=np.uint64)
    total = np.zeros(count, dtype=np.int64)
    for word in range(3):
        bits = random_hash(1, u(3) * index + u(word))
        for shift in (0, 16, 32, 48):
            total += ((bits >> u(shift)) & u(0xFFFF)).astype(np.int64)
    return (total - 393210).astype(np.float32) * np.float32(np.float32(scale) / np.float32(65536))


def scale(divisor):
    import math
    return math.isqrt((400 << 48) // (1000000 * divisor)) / 2**24


def token_text(count):
    """A text with structure: the next token mostly follows from the one before."""
    out, last = [], 0
    draw = random_hash(9, np.arange(count, dtype=np.uint64))
    for value in draw.tolist():
        last = (last * 5 + 3) % V if value % 4 else (value >> 32) % V
        out.append(last)
    return np.array(out)


torch.set_num_threads(1)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=KV,
    intermediate_size=F, max_position_embeddings=T, rope_theta=10000.0, rms_norm_eps=1e-5,
    tie_word_embeddings=True, attn_implementation="eager"))
names, found = ["model.embed_tokens.weight"], dict(model.named_parameters())
for layer in range(L):
    names += [f"model.layers.{layer}.{part}.weight"
              for part in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                           "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
                           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
names.append("model.norm.weight")
at = 0
with torch.no_grad():
    for name in names:
        tensor = found[name]
        if tensor.dim() == 1:
            tensor.fill_(1.0)
        else:
            small = name.endswith(("o_proj.weight", "down_proj.weight"))
            tensor.copy_(torch.from_numpy(values(at, tensor.numel(),
                                                 scale(2 * L if small else 1))).view_as(tensor))
        at += tensor.numel()
optimizer = torch.optim.AdamW([
    dict(params=[found[n] for n in names if found[n].dim() == 2], weight_decay=0.1),
    dict(params=[found[n] for n in names if found[n].dim() == 1], weight_decay=0.0)], lr=2e-3,
                              betas=(0.9, 0.95), eps=1e-8)
text = torch.from_numpy(token_text(STEPS * B * (T + 1))).view(STEPS, B, T + 1)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "model_curve.txt"), "w") as file:
    for step in range(STEPS):
        batch = text[step]
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, V), batch[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        file.write(f"{loss.item():.7f}\n")
