"""What tests/model_outputs_test.sh runs: a long work's outputs are tried before it, and one that
fails costs no other."""
import json
import os
import resource
import signal
import subprocess
import sys
import time

import script_test
from script_test import SMALL, TRAINER, main, read, run, trainer, write

BIN = os.path.dirname(TRAINER)
ALWAYS = [*SMALL, "--kernels", "portable", "--log-every", 1]


def text():
    """Written once: another process may be reading it."""
    return "text" if os.path.exists("text") else script_test.text()


def train(*arguments, code=0):
    return trainer("train", text(), *ALWAYS, *arguments, code=code)


def start(*arguments):
    """A training that goes on until it is told to stop."""
    return subprocess.Popen([TRAINER, "train", text(), *map(str, ALWAYS), "--log-every", "1000",
                             "--steps", "100000000", *map(str, arguments)],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def limited(size, *arguments):
    """As run(), with a limit of a file's size and the default action of SIGXFSZ: (exit code,
    stderr)."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True,
                          preexec_fn=lambda: limit(size), timeout=120)
    return done.returncode, done.stderr


def test_an_output_that_cannot_be_written_is_told_before_the_first_step():
    write("file", "x")
    os.mkdir("directory")
    for flag, path in (("--plot", "no/p.svg"), ("--plot", "directory"), ("--state", "no/state"),
                       ("--state", "directory"),
                       ("--export", "file"), ("--export", "file/below"), ("--log", "no/log.csv")):
        done = subprocess.run([TRAINER, "train", text(), *map(str, ALWAYS), "--steps", "1000000000",
                               "--state", "S", "--export", "D", flag, path],
                              capture_output=True, text=True, timeout=30)
        assert done.returncode in (1, 2) and path in done.stderr, (flag, path, done.stderr)
        assert sorted(os.listdir()) == ["directory", "file", "text"], (flag, path, os.listdir())
    assert "same file" in train("--steps", 1, "--state", "S", "--plot", "S", code=2)
    assert "overwrite the data" in train("--steps", 1, "--plot", "text", code=2)
    said = train("--steps", 1000000000, "--prompt", "x" * 64, code=2)
    assert "prompt" in said, said


def test_a_plot_or_a_log_that_fails_at_the_end_costs_neither_state_nor_model():
    os.mkdir("pictures")
    process = start("--save-every", 1, "--state", "S", "--export", "D", "--plot", "pictures/p.svg")
    while process.poll() is None and not os.path.exists("S"):
        time.sleep(0.01)
    os.rename("pictures", "moved")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and "pictures/p.svg" in said, (process.returncode, said)
    assert (os.path.exists("S") and os.path.exists("D/config.json") and
            os.path.exists("D/model.safetensors"))
    write("full.jsonl", b" " * 1000000)  # at the limit already
    code, said = limited(1000000, TRAINER, "train", text(), *ALWAYS, "--steps", 3, "--state", "S2",
                         "--export", "D2", "--log", "full.jsonl")
    assert code == 1 and "log_not_written" in said and "ulimit -f" in said, (code, said)
    assert os.path.exists("S2") and os.path.exists("D2/config.json")


def test_a_model_is_exported_though_its_state_cannot_be_written():
    os.mkdir("there")
    process = start("--save-every", 1, "--state", "there/S", "--export", "D")
    while process.poll() is None and not os.path.exists("there/S"):
        time.sleep(0.01)
    os.rename("there", "moved")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and "there/S" in said and os.path.exists("D/config.json"), said


def test_two_trainings_do_not_share_a_state_or_an_export():
    for flag in ("--state", "--export"):
        first = start(flag, "shared" + flag, "--log", "log" + flag)
        while first.poll() is None and not (os.path.exists("log" + flag) and
                                            len(read("log" + flag).splitlines()) > 1):
            time.sleep(0.01)
        said = train("--steps", 1, flag, "shared" + flag, code=1)
        assert "another process" in said and "shared" in said, said
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
        train("--steps", 1, flag, "other" + flag)


def test_an_export_goes_over_an_export_and_over_nothing_else():
    train("--steps", 1, "--export", "ours")
    train("--steps", 2, "--export", "ours")
    os.mkdir("theirs")
    for name in ("model.safetensors", "config.json", "model-00001-of-00002.safetensors"):
        write("theirs/" + name, "precious")
        said = train("--steps", 1, "--export", "theirs", code=2)
        assert "theirs" in said and name in said, said
        assert read("theirs/" + name) == b"precious" and os.listdir("theirs") == [name]
        os.unlink("theirs/" + name)
    write("theirs/notes.txt", "precious")
    train("--steps", 1, "--export", "theirs")
    assert read("theirs/notes.txt") == b"precious" and os.path.exists("theirs/config.json")
    write("ours/model.safetensors.tmp.4711", "a killed export's half")
    train("--steps", 1, "--export", "ours")
    assert not os.path.exists("ours/model.safetensors.tmp.4711")


def test_every_program_names_the_limit_of_a_files_size():
    code, said = limited(20000, TRAINER, "train", text(), *ALWAYS, "--steps", 1000000000,
                         "--state", "S")
    assert code == 1 and "ulimit -f" in said and "--state" in said, (code, said)
    code, said = limited(20000, TRAINER, "train", text(), *ALWAYS, "--steps", 1, "--export", "D")
    assert code == 1 and "ulimit -f" in said and "model.safetensors" in said, (code, said)
    code, said = limited(100, TRAINER, "train", text(), *ALWAYS, "--steps", 5, "--log", "log.csv",
                         "--export", "D2", "--shard-size", "1KiB")
    assert code == 1 and "ulimit -f" in said, (code, said)
    write("wan.yaml",
          "duration: 10s\nmodel: {parameters: 300k}\nsites:\n  - {name: near, step: 500ms}\n")
    code, said = limited(100, os.path.join(BIN, "atoll-sim"), "plan", "wan.yaml", "--plot", "p.svg",
                         "--no-advice")
    assert code > 0 and "ulimit -f" in said, (code, said)
    write("run.yaml", "name: limit\nmodel: {hidden: 32, layers: 1, heads: 2, kv_heads: 1, ffn: 48, "
          "context: 32}\n")
    code, said = limited(100, os.path.join(BIN, "atollctl"), "run", "create", "run",
                         "--manifest", "run.yaml")
    assert code > 0 and "ulimit -f" in said, (code, said)
    run(os.path.join(BIN, "atollctl"), "run", "create", "run2", "--manifest", "run.yaml")
    code, said = limited(100, os.path.join(BIN, "atollctl"), "model", "export", "--dir", "run2",
                         "--output", "model")
    assert code > 0 and "ulimit -f" in said, (code, said)
    coordinator = subprocess.Popen([os.path.join(BIN, "atoll-coordinator"), "--dir", "run2",
                                    "--listen", "127.0.0.1:0", "--new-epoch"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: limit(100))
    said = ""
    while "ulimit -f" not in said:  # it may end, or wait for the cause to go
        line = coordinator.stderr.readline()
        assert line, said
        said += line
    coordinator.kill()
    coordinator.communicate()


def test_the_simulator_tries_its_outputs_before_it_runs():
    write("wan.yaml",
          "duration: 9000h\nmodel: {parameters: 300k}\nsites:\n  - {name: near, step: 500ms}\n")
    sim = os.path.join(BIN, "atoll-sim")
    for flags in (["plan", "wan.yaml", "--plot", "no/p.svg"],
                  ["train", "wan.yaml", "--data", text(), "--csv", "no/c.csv"],
                  ["train", "wan.yaml", "--data", "text", "--svg", "no/p.svg"]):
        done = subprocess.run([sim, *flags], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and flags[-1] in done.stderr, done.stderr


def test_a_model_is_not_exported_over_somebody_elses():
    write("run.yaml", "name: owner\nmodel: {hidden: 32, layers: 1, heads: 2, kv_heads: 1, ffn: 48, "
          "context: 32}\n")
    ctl = os.path.join(BIN, "atollctl")
    run(ctl, "run", "create", "run", "--manifest", "run.yaml")
    os.mkdir("mine")
    write("mine/config.json", "{}")
    done = subprocess.run([ctl, "model", "export", "--dir", "run", "--output", "mine"],
                          capture_output=True, text=True)
    assert (done.returncode != 0 and "mine" in done.stderr and
            read("mine/config.json") == b"{}"), done.stderr
    run(ctl, "model", "export", "--dir", "run", "--output", "model")
    run(ctl, "model", "export", "--dir", "run", "--output", "model")
    assert json.loads(read("model/tokenizer_config.json"))["model_input_names"] == [
        "input_ids", "attention_mask"]


if __name__ == "__main__":
    sys.exit(main(globals()))
