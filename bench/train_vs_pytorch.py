#!/usr/bin/env python3
"""The CPU trainer beside PyTorch: same shape, same optimizer, same threads, taking turns.

    make build/release/bench/train                      our side
    python3 -m venv V && V/bin/pip install torch        PyTorch's current release from PyPI is the fair opponent
    V/bin/python bench/train_vs_pytorch.py [--shape small|medium] [--threads 1 2] [--rounds 5] [--seconds 2]

All contestants of a thread count are started, warmed up (torch.compile compiles then) and left asleep; in each round each
trains alone for --seconds, in an order that rotates. A round's figure is tokens a second of the median step; the table has the
median of rounds and the ratio to PyTorch fp32 eager in the same rounds. Result: build/bench/train.json.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHAPES = {  # hidden, layers, heads, ffn, length, sequences
    "small": (160, 4, 5, 448, 128, 16),
    "narrow": (128, 6, 4, 352, 64, 8),
    "medium": (320, 8, 10, 896, 256, 8),
}
TORCH = ["torch-fp32", "torch-fp32-compiled", "torch-bf16"]


def torch_child(shape, threads, mode):
    import torch
    import torch.nn.functional as F
    hidden, layers, heads, ffn, length, sequences = SHAPES[shape]
    vocabulary, size = 256, hidden // heads
    torch.set_num_threads(threads)
    torch.manual_seed(1)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            linear = lambda out, inp: torch.nn.Linear(inp, out, bias=False)
            self.norm1, self.norm2 = torch.nn.RMSNorm(hidden, eps=1e-5), torch.nn.RMSNorm(hidden, eps=1e-5)
            self.qkv, self.o = linear(3 * hidden, hidden), linear(hidden, hidden)
            self.gate_up, self.down = linear(2 * ffn, hidden), linear(hidden, ffn)

        def forward(self, x, cos, sin):
            def split(y):
                return y.view(-1, length, heads, size).transpose(1, 2)

            def rotate(y):
                a, b = y.chunk(2, -1)
                return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
            q, k, v = map(split, self.qkv(self.norm1(x)).chunk(3, -1))
            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
            x = x + self.o(y.transpose(1, 2).reshape(-1, length, hidden))
            gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
            return x + self.down(F.silu(gate) * up)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(vocabulary, hidden)
            torch.nn.init.normal_(self.embedding.weight, std=0.02)
            self.layers = torch.nn.ModuleList(Layer() for _ in range(layers))
            self.norm = torch.nn.RMSNorm(hidden, eps=1e-5)
            angles = torch.outer(torch.arange(length).float(), 10000.0 ** (-torch.arange(0, size, 2) / size))
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())

        def forward(self, tokens, targets):
            x = self.embedding(tokens)
            for layer in self.layers:
                x = layer(x, self.cos, self.sin)
            logits = F.linear(self.norm(x), self.embedding.weight)
            return F.cross_entropy(logits.view(-1, vocabulary).float(), targets.reshape(-1))

    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if mode.endswith("compiled") else model
    source = torch.randint(0, vocabulary, (1 << 18,))

    def step():
        at = torch.randint(0, len(source) - length - 1, (sequences,)).tolist()
        batch = torch.stack([source[i:i + length + 1] for i in at])
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in mode):
            loss = run(batch[:, :-1], batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for line in sys.stdin:
        times, start = [], time.perf_counter()
        while len(times) < 2 or time.perf_counter() - start < float(line):
            before = time.perf_counter()
            loss = step()
            times.append(time.perf_counter() - before)
        print(json.dumps({"tokens_per_second": sequences * length / statistics.median(times), "loss": loss,
                          "parameters": sum(p.numel() for p in model.parameters()), "version": torch.__version__}), flush=True)


def start(name, shape, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    if name.startswith("torch"):
        command = [sys.executable, os.path.abspath(__file__), "--child", name, "--shape", shape, "--threads", str(threads)]
    else:
        numbers = [str(n) for n in SHAPES[shape]] + [str(threads), name]
        command = [os.path.join(ROOT, "build/release/bench/train"), "serve"] + numbers
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def turn(process, seconds):
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--kernels", nargs="+", default=["avx2", "avx512", "avx512bf16"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return torch_child(options.shape, options.threads[0], options.child)
    results = []
    for threads in options.threads:
        names = options.kernels + TORCH
        processes = {name: start(name, options.shape, threads) for name in names}
        rounds = {name: [] for name in names}
        last = {}
        for name in list(names):
            try:
                turn(processes[name], 0.1)  # warm-up
            except (ValueError, BrokenPipeError):
                print(f"{name} does not run here", file=sys.stderr)
                names.remove(name)
        for number in range(options.rounds):
            for name in names[number % len(names):] + names[:number % len(names)]:
                last[name] = turn(processes[name], options.seconds)
                rounds[name].append(last[name]["tokens_per_second"])
        for process in processes.values():
            process.stdin.close()
            process.wait()
        for name in names:
            ratio = statistics.median(a / b for a, b in zip(rounds[name], rounds[TORCH[0]]))
            results.append({"name": name, "threads": threads, "tokens_per_second": statistics.median(rounds[name]),
                            "rounds": rounds[name], "ratio_to_torch_fp32": ratio, "loss": last[name]["loss"],
                            "parameters": last[name]["parameters"], "torch": last[name].get("version")})
            print(f"{name:20} threads={threads} {statistics.median(rounds[name]):9.0f} tokens/s  "
                  f"{ratio:5.2f} x torch-fp32   loss {last[name]['loss']:.3f}")
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    settings = {"shape": options.shape, "hidden_layers_heads_ffn_length_sequences": SHAPES[options.shape], "rounds": options.rounds,
                "seconds": options.seconds, "cpu": cpu, "processors": os.cpu_count(), "load_average": os.getloadavg()}
    print("settings:", json.dumps(settings))
    os.makedirs(os.path.join(ROOT, "build/bench"), exist_ok=True)
    with open(os.path.join(ROOT, "build/bench/train.json"), "w") as file:
        json.dump({"settings": settings, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
