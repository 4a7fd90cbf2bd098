"""Golden vectors of the model from an independent implementation: transformers' LlamaForCausalLM in
float64 with PyTorch's AdamW.

    python3 tests/golden/model_golden.py        rewrites tests/golden/model_*.bin; needs torch,
                                                transformers and numpy

File, little-endian: 10 u32 (vocabulary, hidden, layers, heads, kv_heads, ffn, context, tied,
sequences, length), f32 rope_theta, norm_eps, tokens u16 [sequences][length + 1], then u64 parameter
count and f32 arrays: parameters, logits [sequences][length][vocabulary], f64 loss, f64 gradient
norm, f32 gradient, f32 parameters after one AdamW step with the settings below.
"""
import os
import struct

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SETTINGS = dict(lr=3e-3, betas=(0.9, 0.95), eps=1e-8, decay=0.1, clip=0.25)
SHAPES = {
    "tied_gqa": dict(vocabulary=19, hidden=16, layers=2, heads=4, kv_heads=2, ffn=20, context=32,
                     tied=1, sequences=2, length=29),
    "untied": dict(vocabulary=23, hidden=24, layers=1, heads=2, kv_heads=2, ffn=33, context=64,
                   tied=0, sequences=3, length=7),
    "long": dict(vocabulary=11, hidden=12, layers=1, heads=2, kv_heads=1, ffn=16, context=80,
                 tied=1, sequences=1, length=80),
}


def names(shape):
    """The flat vector's order."""
    yield "model.embed_tokens.weight"
    for layer in range(shape["layers"]):
        for part in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                     "self_attn.o_proj",
                     "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            yield f"model.layers.{layer}.{part}.weight"
    yield "model.norm.weight"
    if not shape["tied"]:
        yield "lm_head.weight"


def make(name, shape):
    torch.manual_seed(sum(map(ord, name)))
    theta, eps = 500.0, 1e-5
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=shape["vocabulary"], hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"], intermediate_size=shape["ffn"],
        max_position_embeddings=shape["context"], rope_theta=theta, rms_norm_eps=eps,
        tie_word_embeddings=bool(shape["tied"]), attn_implementation="eager")).double()
    found = dict(model.named_parameters())
    tensors = [found[n] for n in names(shape)]
    assert len(tensors) == len(found)
    with torch.no_grad():
        # larger than at a real start, so that every path matters; exact in float32
        for tensor in tensors:
            value = torch.randn_like(tensor) * 0.3 + (1.0 if tensor.dim() == 1 else 0.0)
            tensor.copy_(value.float().double())
    tokens = torch.randint(0, shape["vocabulary"], (shape["sequences"], shape["length"] + 1))

    def flat(which):
        return torch.cat([which(t).detach().reshape(-1)
                          for t in tensors]).numpy().astype("<f4").tobytes()

    parameters = flat(lambda t: t)
    logits = model(input_ids=tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, shape["vocabulary"]),
                                             tokens[:, 1:].reshape(-1))
    loss.backward()
    gradient = flat(lambda t: t.grad)
    optimizer = torch.optim.AdamW([
        dict(params=[t for t in tensors if t.dim() == 2], weight_decay=SETTINGS["decay"]),
        dict(params=[t for t in tensors if t.dim() == 1], weight_decay=0.0),
    ], lr=SETTINGS["lr"], betas=SETTINGS["betas"], eps=SETTINGS["eps"])
    norm = torch.nn.utils.clip_grad_norm_(tensors, SETTINGS["clip"])
    optimizer.step()

    keys = ("vocabulary", "hidden", "layers", "heads", "kv_heads", "ffn", "context", "tied",
            "sequences", "length")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"model_{name}.bin")
    with open(path, "wb") as file:
        file.write(struct.pack("<10I2f", *(shape[k] for k in keys), theta, eps))
        file.write(tokens.numpy().astype("<u2").tobytes())
        file.write(struct.pack("<Q", sum(t.numel() for t in tensors)))
        file.write(parameters)
        file.write(logits.detach().numpy().astype("<f4").tobytes())
        file.write(struct.pack("<2d", loss.item(), norm.item()))
        file.write(gradient)
        file.write(flat(lambda t: t))
    print(path, os.path.getsize(path), "bytes, loss", loss.item(), "norm", norm.item())


for name, shape in SHAPES.items():
    make(name, shape)
