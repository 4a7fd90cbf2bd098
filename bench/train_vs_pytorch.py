#!/usr/bin/env python3
"""The CPU trainer beside PyTorch: same shape, same optimizer, same threads, taking turns.

    make bench-train [PYTHON=V/bin/python] [ARGUMENTS="--shape 12m --threads 2 --rounds 5 --seconds
        2 --avx2 --busy"]
    python3 -m venv V && V/bin/pip install torch        PyTorch's current release from PyPI is the
                                                        fair opponent

PyTorch runs in fp32 and under bf16 autocast, eager and compiled, with scaled_dot_product_attention
and fused AdamW, with OMP_NUM_THREADS set and, where it is found, jemalloc or tcmalloc preloaded;
all of which is printed. All contestants of a thread count are started, warmed up (torch.compile
compiles then) and left asleep; in each round each trains alone for --seconds, in an order that
rotates. A round's figure is tokens per second of the median step; the table has the median of
rounds, and the ratio to PyTorch's best in the same rounds. --avx2 forces AVX2 on both sides (ours
against PyTorch's best in fp32 or bf16 under ATEN_CPU_CAPABILITY=avx2 and ONEDNN_MAX_CPU_ISA=AVX2).
All tables that this processor can run take part, and `default`: what a trainer takes that nobody
told. The bar is that the default is the fastest of them; --bar makes its exit code. --busy adds
rounds with another process loading every core. Peak memory is each process's own.
"""
import argparse
import json
import os
import statistics
import subprocess
import resource
import glob
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
from outputs import check_file  # noqa: E402
SHAPES = {  # hidden, layers, heads, ffn, length, sequences, vocabulary
    "1m": (160, 4, 5, 448, 128, 16, 256),
    "12m": (320, 8, 10, 960, 128, 8, 4096),
    "50m": (640, 9, 10, 1728, 128, 8, 8192),
}
TORCH = ["torch-fp32", "torch-fp32-compiled", "torch-bf16", "torch-bf16-compiled"]


# Ends with its parent, however that ends.
LOAD = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100000))"


def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def torch_child(shape, threads, mode, device="cpu"):
    """Trains for as many seconds as each line on stdin says; bench/gpu_vs_pytorch.py has it on a
    GPU."""
    import torch
    import torch.nn.functional as F
    if not hasattr(torch.nn, "RMSNorm"):  # before 2.4
        class RMSNorm(torch.nn.Module):
            def __init__(self, width, eps):
                super().__init__()
                self.weight, self.eps = torch.nn.Parameter(torch.ones(width)), eps

            def forward(self, x):
                return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
        torch.nn.RMSNorm = RMSNorm

    def attend(q, k, v):
        if hasattr(F, "scaled_dot_product_attention"):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.transpose(-1, -2) / size ** 0.5  # before 2.0
        return torch.softmax(scores + mask, -1) @ v

    hidden, layers, heads, ffn, length, sequences, vocabulary = (
        SHAPES[shape] if isinstance(shape, str) else shape)
    mask = torch.full((length, length), float("-inf"), device=device).triu(1)
    size = hidden // heads
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(1)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            linear = lambda out, inp: torch.nn.Linear(inp, out, bias=False)
            self.norm1, self.norm2 = torch.nn.RMSNorm(hidden,
                                                      eps=1e-5), torch.nn.RMSNorm(hidden, eps=1e-5)
            self.qkv, self.o = linear(3 * hidden, hidden), linear(hidden, hidden)
            self.gate_up, self.down = linear(2 * ffn, hidden), linear(hidden, ffn)

        def forward(self, x, cos, sin):
            def split(y):
                return y.view(-1, length, heads, size).transpose(1, 2)

            def rotate(y):
                a, b = y.chunk(2, -1)
                return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
            q, k, v = map(split, self.qkv(self.norm1(x)).chunk(3, -1))
            y = attend(rotate(q), rotate(k), v)
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
            angles = torch.outer(torch.arange(length).float(),
                                 10000.0 ** (-torch.arange(0, size, 2) / size))
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())

        def forward(self, tokens, targets):
            x = self.embedding(tokens)
            for layer in self.layers:
                x = layer(x, self.cos, self.sin)
            logits = F.linear(self.norm(x), self.embedding.weight)
            return F.cross_entropy(logits.view(-1, vocabulary).float(), targets.reshape(-1))

    model = Model().to(device)
    adamw = dict(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    try:
        optimizer = torch.optim.AdamW(model.parameters(), fused=True, **adamw)
    except (RuntimeError, TypeError):  # not on a CPU, before 2.4
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True, **adamw)
    run = (torch.compile(model) if mode.endswith("compiled")
           else torch.compile(model, mode="max-autotune") if mode.endswith("autotuned") else model)
    source = torch.randint(0, vocabulary, (1 << 18,))

    def step():
        at = torch.randint(0, len(source) - length - 1, (sequences,)).tolist()
        batch = torch.stack([source[i:i + length + 1] for i in at]).to(device, non_blocking=True)
        with torch.autocast(device, torch.bfloat16, enabled="bf16" in mode):
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
        print(json.dumps({"tokens_per_second": sequences * length / statistics.median(times),
                          "loss": loss, "parameters": sum(p.numel() for p in model.parameters()),
                          "version": torch.__version__, "peak_kib": peak_kib()}), flush=True)


def allocator():
    for name in ("libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libtcmalloc.so.4"):
        found = glob.glob(f"/usr/lib/*/{name}") + glob.glob(f"/usr/lib/{name}")
        if found:
            return found[0]
    return None


def complaints_path(name, threads):
    return os.path.join(ROOT, f"build/bench/{name}-{threads}.stderr")


def complaints(name, threads):
    os.makedirs(os.path.join(ROOT, "build/bench"), exist_ok=True)
    return open(complaints_path(name, threads), "w")


def bury(name, threads, process):
    """A contestant that died is named with its last words; the others go on."""
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass
    process.kill()
    with open(complaints_path(name, threads)) as file:
        lines = file.read().strip().splitlines()
    fatal = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if fatal is None:
        words = lines[-4:]
    # faulthandler's report goes on for pages: what killed it, and where the thread it killed was
    else:
        current = next((i for i, line in enumerate(lines) if line.startswith("Current thread")),
                       fatal)
        words = lines[max(0, fatal - 1):fatal + 1] + lines[current + 1:current + 4]
    print(f"{name} threads={threads} ended with status {process.wait()}:",
          *(words or ["(no word on stderr)"]), sep="\n    ", file=sys.stderr, flush=True)


def start(name, options, threads, narrow=False):
    """`narrow`: PyTorch's own loops in AVX2, while oneDNN's and MKL's products keep the best
    instructions there are."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads),
                       PYTHONFAULTHANDLER="1")
    if name.startswith("torch"):
        if options.avx2:
            environment.update(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2",
                               MKL_ENABLE_INSTRUCTIONS="AVX2")
        if narrow:
            environment["ATEN_CPU_CAPABILITY"] = "avx2"
        # large pages, which ours asks for too: up to a sixth faster here
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        if allocator():
            environment["LD_PRELOAD"] = allocator()
        command = [sys.executable, os.path.abspath(__file__), "--child", name,
                   "--shape", options.shape, "--threads", str(threads)]
    else:
        command = [options.program,
                   "serve"] + [str(n) for n in SHAPES[options.shape]] + [str(threads), name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=complaints(name, threads), text=True, env=environment)


def runnable(program):
    """The tables of this processor. The portable one takes many times as long as any other."""
    said = subprocess.run([program,
                           "tables"], check=True, capture_output=True, text=True).stdout.split()
    return [name for name in said if name != "portable"] or said


def bar_of(rows):
    """Whether the default is the fastest table, by thread count; a line each."""
    held = True
    for threads in sorted({row["threads"] for row in rows}):
        ours = {row["name"]: row for row in rows if row["threads"] == threads and
                not row["busy"] and not row["name"].startswith("torch")}
        if "default" not in ours or len(ours) < 2:
            continue
        best = max((row for row in ours.values() if row["name"] != "default"),
                   key=lambda row: row["tokens_per_second"])
        chosen = ours["default"]["kernels"]
        against = ours.get(chosen, ours["default"])["tokens_per_second"] / best["tokens_per_second"]
        held &= chosen == best["name"] or against >= 0.97  # two tables as fast as each other
        print(f"threads={threads}: the default is {chosen}, the fastest table is {best['name']} "
              f"({against:.2f} of its speed): {ours['default']['why']}")
    return held


def turn(process, seconds):
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def try_narrow(name, options, threads, processes):
    """PyTorch 2.15's compiled bf16 corrupts its heap with AVX-512 loops on some processors and runs
    with AVX2's."""
    if options.avx2 or not name.endswith("compiled"):
        return False
    print(f"{name} again, under ATEN_CPU_CAPABILITY=avx2", file=sys.stderr, flush=True)
    processes[name] = start(name, options, threads, narrow=True)
    try:
        turn(processes[name], 0.1)
        return True
    except (ValueError, BrokenPipeError):
        bury(name, threads, processes.pop(name))
        return False


def compete(names, processes, options, threads, busy):
    """Every contestant's rounds, and what each said last. `busy` loads every core with another
    process for the time."""
    rounds, last = {name: [] for name in names}, {"threads": threads}
    load = [subprocess.Popen([sys.executable, "-c", LOAD])
            for _ in range(os.cpu_count() if busy else 0)]
    try:
        for number in range(options.rounds):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                if name not in rounds:
                    continue
                try:
                    last[name] = turn(processes[name], options.seconds)
                    rounds[name].append(last[name]["tokens_per_second"])
                except (ValueError, BrokenPipeError):
                    bury(name, last["threads"], processes[name])
                    del rounds[name]
    finally:
        for process in load:
            process.kill()
            process.wait()
    return rounds, last


def table(rounds, last, threads, busy, idle):
    """Prints and returns a row a contestant."""
    best = max((n for n in rounds if n.startswith("torch")),
               key=lambda n: statistics.median(rounds[n]), default=None)
    rows = []
    for name in rounds:
        speed = statistics.median(rounds[name])
        row = {"name": name, "threads": threads, "busy": busy, "tokens_per_second": speed,
               "rounds": rounds[name], "ratio_to_best_torch":
               statistics.median(a / b for a, b in zip(rounds[name], rounds[best])) if best
               else None,
               "best_torch": best, "share_of_idle": speed / idle[name] if name in idle else None,
               "loss": last[name]["loss"], "parameters": last[name]["parameters"],
               "peak_kib": last[name]["peak_kib"], "torch": last[name].get("version"),
               "kernels": last[name].get("kernels"), "why": last[name].get("why")}
        rows.append(row)
        ratio = f"{row['ratio_to_best_torch']:6.2f} x {best}" if best else ""
        share = (f"  keeps {row['share_of_idle']:.2f} of its idle speed" if row["share_of_idle"]
                 else "")
        print(f"{name:20} threads={threads}{' busy' if busy else ''} {speed:9.0f} tokens/s "
              f"{ratio}  {row['peak_kib'] / 1024:6.0f} MiB{share}", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build/release/bench/train"))
    parser.add_argument("--shape", choices=SHAPES, default="1m")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--kernels", nargs="+")
    parser.add_argument("--torch", nargs="*", default=TORCH)
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--bar", action="store_true",
                        help="exit code 1 where the default is not the fastest table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    check_file(os.path.join(ROOT, "build/bench/train.json"))
    if options.child:
        return torch_child(options.shape, options.threads[0], options.child)
    kernels = options.kernels or (["avx2"] if options.avx2
                                  else ["default", *runnable(options.program)])
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")),
                   "?")
    settings = {"shape": options.shape,
                "hidden_layers_heads_ffn_length_sequences_vocabulary": SHAPES[options.shape],
                "rounds": options.rounds, "seconds": options.seconds, "cpu": cpu,
                "processors": os.cpu_count(), "load_average": os.getloadavg(),
                "torch_environment": {"OMP_NUM_THREADS": "as threads", "LD_PRELOAD": allocator(),
                                      "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
                                      "ATEN_CPU_CAPABILITY": "avx2" if options.avx2 else "best"},
                "attention": "scaled_dot_product_attention", "optimizer": "AdamW(fused)"}
    print("settings:", json.dumps(settings))
    results = []
    for threads in options.threads:
        names = kernels + options.torch
        processes = {name: start(name, options, threads) for name in names}
        for name in list(names):
            try:
                turn(processes[name], 0.1)  # warm-up
            except (ValueError, BrokenPipeError):
                bury(name, threads, processes.pop(name))
                if try_narrow(name, options, threads, processes):
                    settings["torch_environment"][f"ATEN_CPU_CAPABILITY of {name}"] = "avx2"
                else:
                    names.remove(name)
        rounds, last = compete(names, processes, options, threads, False)
        results += table(rounds, last, threads, False, {})
        if options.busy:
            idle = {name: statistics.median(rounds[name]) for name in rounds}
            results += table(*compete(list(idle), processes, options, threads, True), threads, True,
                             idle)
        for process in processes.values():
            if process.poll() is None:
                process.stdin.close()
            process.wait()
    os.makedirs(os.path.join(ROOT, "build/bench"), exist_ok=True)
    with open(os.path.join(ROOT, "build/bench/train.json"), "w") as file:
        json.dump({"settings": settings, "results": results}, file, indent=1)
    versions = {row["torch"] for row in results if row["torch"]}
    print("PyTorch", *sorted(versions) or ["took no part"])
    held = bar_of(results)
    return 1 if options.bar and not held else 0


if __name__ == "__main__":
    sys.exit(main())
