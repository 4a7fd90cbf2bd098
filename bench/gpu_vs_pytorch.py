#!/usr/bin/env python3
"""The CUDA trainer beside torch.compile on one GPU: same model, same batch, one run, taking turns;
and the codec's and attention's times.

    make gpu-bench [PYTHON=V/bin/python] [ARGUMENTS="--shapes 124m 350m 1.3b --rounds 5 --seconds
        5"]

PyTorch: bf16 autocast, scaled_dot_product_attention (flash), fused AdamW, TF32 allowed where fp32
is left, torch.compile in its default mode and in max-autotune, which has CUDA graphs; the better of
the two counts. Each contestant has its own process, is warmed up until it has compiled, and the two
never run at once. A round's figure is tokens per second of the median step. build/bench/gpu.json
has it all. Ends with 1 where there is no GPU, no torch or one of ours does not run: nothing is
compared with nothing.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import train_vs_pytorch

ROOT = train_vs_pytorch.ROOT
sys.path.insert(0, os.path.join(ROOT, "scripts"))
from outputs import check_file  # noqa: E402
SHAPES = {  # hidden, layers, heads, ffn, length, sequences, vocabulary
    "124m": (768, 12, 12, 2048, 1024, 32, 50304),
    "350m": (1024, 24, 16, 2736, 1024, 16, 50304),
    "1.3b": (2048, 24, 16, 5464, 1024, 8, 50304),
    "tiny": (64, 1, 2, 176, 32, 2, 256),  # for the emulation
}
TORCH = ["torch-bf16-compiled", "torch-bf16-autotuned"]
BARS = {"124m": 1.15, "350m": 1.1, "1.3b": 1.1}
# dense bf16, by the maker's data sheets
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}


def peak_of(device):
    return next((value for name, value in PEAKS.items() if name in device), None)


def ceilings(torch):
    """Bytes per second (read and written) of a large copy and flops a second of a large bf16
    product; medians."""
    def seconds(work, count):
        times = []
        for _ in range(count + 3):
            torch.cuda.synchronize()
            before = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - before)
        return statistics.median(times[3:])
    source = torch.empty(1 << 30, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * 4 * source.numel() / seconds(lambda: target.copy_(source), 20)
    del source, target
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    flops = 2 * size ** 3 / seconds(lambda: a @ b, 20)
    print(json.dumps({"bytes_per_second": copied, "flops_per_second": flops,
                      "torch": torch.__version__}))


def child(name, shape):
    import torch
    if name == "ceilings":
        return ceilings(torch)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    train_vs_pytorch.torch_child(SHAPES[shape], 0, name, "cuda")


def start(name, shape, program):
    if name.startswith("torch"):
        command = [sys.executable, os.path.abspath(__file__), "--child", name, "--shapes", shape]
    else:
        command = [program, "serve"] + [str(n) for n in SHAPES[shape]] + ["0", "cuda"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def flops_per_token(shape, parameters):
    hidden, layers, _, _, length, _, _ = SHAPES[shape]
    return 6 * parameters + 6 * layers * hidden * length  # causal attention: half of 12 L H T


def compare(shape, options, peak):
    """One contestant after the other is alive: two do not fit beside each other at the larger
    shapes."""
    figures, last = {}, {}
    for name in ["atoll"] + TORCH:
        process = start(name, shape, options.program)
        try:
            train_vs_pytorch.turn(process, 1)  # compiles, tunes, warms up
            train_vs_pytorch.turn(process, 1)
            rounds = []
            for _ in range(options.rounds):
                last[name] = train_vs_pytorch.turn(process, options.seconds)
                rounds.append(last[name]["tokens_per_second"])
            figures[name] = rounds
        except (ValueError, BrokenPipeError):
            print(f"{shape}: {name} does not run here", file=sys.stderr)
        process.stdin.close()
        process.wait()
    speeds = {name: statistics.median(rounds) for name, rounds in figures.items()}
    best = max((speeds[name] for name in TORCH if name in speeds), default=None)
    ours = speeds.get("atoll")
    row = {"shape": shape, "batch": SHAPES[shape][5], "length": SHAPES[shape][4],
           "tokens_per_second": speeds, "rounds": figures,
           "ratio": ours / best if ours and best else None, "bar": BARS[shape], "last": last}
    for name, speed in speeds.items():
        used = speed * flops_per_token(shape, last[name]["parameters"])
        row.setdefault("mfu", {})[name] = used / peak if peak else None
        print(f"{shape} {name:22} {speed:10.0f} tokens/s  "
              f"{f'{used / peak:.1%} of the peak' if peak else f'{used / 1e12:.0f} TFLOP/s'}",
              flush=True)
    if row["ratio"]:
        print(f"{shape} ratio {row['ratio']:.3f}, wanted {BARS[shape]}", flush=True)
    return row


def attention(options, peak):
    """Both ways of attention by itself, forward and backward: flops as they are usually counted
    (causal: half; backward 2.5 times forward)."""
    rows = []
    for shape in options.shapes:
        hidden, _, heads, _, length, sequences, _ = SHAPES[shape]
        command = [options.probe,
                   options.library] + [str(n)
                                       for n in (sequences, length, heads, heads, hidden // heads)]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if found.returncode != 0:
            print(f"{shape}: attention is not measured: {found.stdout.strip()}", flush=True)
            rows.append({"shape": shape, "error": found.stdout.strip()})
            continue
        *times, distance, timed = (float(word) for word in found.stdout.split())
        flops = 2 * timed * hidden * length * length
        row = {"shape": shape, "sequences": int(timed), "length": length, "distance": distance,
               "ways": {}}
        for way, forward, backward in (("mma.sync", *times[:2]), ("wgmma", *times[2:4])):
            if not forward:
                continue
            row["ways"][way] = {"forward_ms": forward, "backward_ms": backward,
                                "forward_tflops": flops / forward / 1e9,
                                "backward_tflops": 2.5 * flops / backward / 1e9}
            print(f"{shape} attention by {way:8} forward {forward:.3f} ms, "
                  f"{flops / forward / 1e9:.0f} TFLOP/s; backward {backward:.3f} ms, "
                  f"{2.5 * flops / backward / 1e9:.0f} TFLOP/s", flush=True)
        if peak:
            row["floor_ms"] = {"forward": flops / peak * 1e3, "backward": 2.5 * flops / peak * 1e3}
            print(f"{shape} attention's floor: forward {row['floor_ms']['forward']:.3f} ms, "
                  f"backward {row['floor_ms']['backward']:.3f} ms at {peak / 1e12:.0f} TFLOP/s",
                  flush=True)
        rows.append(row)
    return rows


def codec(options):
    found = subprocess.run([options.codec], stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout) if found.returncode == 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build/release/bench/train"))
    parser.add_argument("--codec", default=os.path.join(ROOT, "build/release/bench/gpu_codec"))
    parser.add_argument("--probe", default=os.path.join(ROOT, "build/release/bin/atoll-cuda-probe"))
    parser.add_argument("--library",
                        default=os.path.join(ROOT, "build/release/bin/atoll-kernels-cuda.so"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(BARS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.shapes[0])
    check_file(os.path.join(ROOT, "build/bench/gpu.json"))
    times = codec(options)
    if not times:
        print("gpu-bench: there is no CUDA device here; nothing was measured", file=sys.stderr)
        return 1
    print(json.dumps(times), flush=True)
    peak = peak_of(times["device"])
    settings = {"device": times["device"], "rounds": options.rounds, "seconds": options.seconds,
                "peak": peak,
                "torch": {"dtype": "bf16 autocast", "attention": "scaled_dot_product_attention",
                          "optimizer": "AdamW(fused)",
                          "tf32": True, "modes": ["default", "max-autotune (CUDA graphs)"]}}
    print("settings:", json.dumps(settings), flush=True)
    alone = attention(options, peak)
    rows = [compare(shape, options, peak) for shape in options.shapes]
    os.makedirs(os.path.join(ROOT, "build/bench"), exist_ok=True)
    with open(os.path.join(ROOT, "build/bench/gpu.json"), "w") as file:
        json.dump({"settings": settings, "codec": times, "attention": alone, "training": rows},
                  file, indent=1)
    return 0 if all(row["ratio"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
