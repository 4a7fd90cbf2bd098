"""What tests/arm64_test.sh runs: the training engine built for 64-bit ARM, run by qemu, beside this
machine's own build.

Needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static of Debian; without them
everything is SKIPPED."""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from script_test import DEADLINE_S, ROOT, SMALL, TRAINER, Skip, main, text  # noqa: E402

CC, QEMU, LIBC = "aarch64-linux-gnu-gcc", "qemu-aarch64-static", "/usr/aarch64-linux-gnu"
OUT = os.path.join(ROOT, "build/release-aarch64")
PATIENCE_S = 10 * DEADLINE_S  # qemu takes nine times as long


def command(*arguments, where=None):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True,
                          errors="replace", timeout=PATIENCE_S, cwd=where)
    assert done.returncode == 0, (
        f"exit {done.returncode}: "
        f"{' '.join(map(str, arguments))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def built(*targets):
    if os.uname().machine == "aarch64":
        raise Skip("this machine is one: every other test is of ARM64")
    for program, package in ((CC, "gcc-aarch64-linux-gnu"), (QEMU, "qemu-user-static")):
        if not shutil.which(program):
            raise Skip(f"{program} is not installed: apt-get install {package}")
    if not os.path.exists(os.path.join(LIBC, "lib/libc.so.6")):
        raise Skip(f"there is no libc in {LIBC}: apt-get install libc6-dev-arm64-cross")
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make", "-s", "-j2", f"CC={CC}", "BUILD=release", "CUDA=0", *targets],
                          cwd=ROOT, capture_output=True, text=True,
                          timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def arm(program, *arguments):
    return command(QEMU, "-L", LIBC, program, *arguments)


def test_the_trainer_is_built_and_trains_as_it_does_here():
    built("trainer")
    arguments = [*SMALL, "--kernels", "portable", "--device", "cpu", "--schedule", "constant",
                 "--evaluate-windows", "16"]
    here = command(TRAINER, *arguments, "--steps", "4", "--state", "here", text())
    there = arm(os.path.join(OUT, "bin/atoll-trainer"), *arguments, "--steps", "4",
                "--state", "there", text())
    loss = [float(re.search(r"heldout_nats=(\S+)", said).group(1)) for said in (here, there)]
    assert abs(loss[0] - loss[1]) < 2e-3 and loss[0] < 5.54, loss  # something was learned
    # and what was begun here goes on there
    arguments += ["--steps", "6"]
    said = arm(os.path.join(OUT, "bin/atoll-trainer"), *arguments, "--state", "here", text())
    assert "steps=6 " in said, said
    arm(os.path.join(OUT, "bin/atoll-trainer"), "train", *arguments, "--state", "here",
        "--export", "model", text())
    logits = [command(TRAINER, "logits", "model", "--tokens", "1 2 3", "--kernels", "portable"),
              arm(os.path.join(OUT, "bin/atoll-trainer"), "logits", "model", "--tokens", "1 2 3")]
    numbers = [[float(n) for n in re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?", said)] for said in logits]
    assert len(numbers[0]) == len(numbers[1]) >= 256
    assert all(abs(a - b) < 1e-4 for a, b in zip(*numbers)), "the logits differ"


def test_its_kernels_agree_with_the_references():
    names = ["kernels_linear_test", "kernels_operations_test", "kernels_attention_test",
             "kernels_elementwise_test", "kernels_table_test"]
    built(*[f"build/release-aarch64/gpu/{name}" for name in names])
    for name in names:
        path = os.path.join(OUT, "gpu", name)
        for one in arm(path, "--list").split():
            # the runner would start itself anew, which needs an ARM machine
            arm(path, "--only", one)


def test_what_must_have_the_same_bits_everywhere_has_them():
    built("trainer")
    fed = [os.path.join("fed", name) for name in sorted(os.listdir(os.path.join(ROOT, "fed")))
           if name.endswith(".c")]
    said = []
    for compiler, out, run in (("gcc", os.path.dirname(os.path.dirname(TRAINER)), []),
                               (CC, OUT, [QEMU, "-L", LIBC])):
        program = os.path.abspath(f"bits-{compiler}")
        command(compiler, "-std=c11", "-O2", "-ffp-contract=off", "-ffunction-sections",
                "-Wl,--gc-sections", "-D_GNU_SOURCE", "-I.", "-pthread", "-o", program,
                "tests/portable_bits.c", *fed, *[os.path.join(out, f"lib{name}.a")
                                                 for name in ("model", "codec", "kernels", "base")],
                "-lm", where=ROOT)
        said.append(dict(line.split() for line in command(*run, program).splitlines()))
    assert said[0]["sha256-abc"].startswith("ba7816bf8f01cfea"), "the digest itself"
    assert len(said[0]) == 28 and {"initial-parameters", "dense-root-3", "sparse-root-3",
                                   "topk2-64-message", "int8-feedback"} <= set(said[0])
    assert said[0] == said[1], [name for name in said[0] if said[0][name] != said[1].get(name)]


if __name__ == "__main__":
    sys.exit(main(globals()))
