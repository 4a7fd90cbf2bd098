"""What tests/model_alone_test.sh runs: atoll-trainer, which needs no coordinator, as its user
meets it."""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.dom.minidom

ROOT = os.environ.get("ATOLL_ROOT") or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRAINER = os.path.join(os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build/release/bin"),
                    "atoll-trainer")
SMALL = ("--vocabulary 256 --hidden 32 --layers 2 --heads 4 --kv-heads 2 --ffn 48 --context 64 "
         "--sequences 8 --length 32 --kernels portable --log-every 5 --schedule constant").split()


def trainer(*arguments, code=0, **more):
    done = subprocess.run([TRAINER, *map(str, arguments)], capture_output=True, timeout=120, **more)
    said = (done.stdout.decode(errors="replace") if code == 0
            else done.stderr.decode(errors="replace"))
    assert done.returncode == code, (f"exit {done.returncode}, wanted {code}: "
                                     f"{arguments}\n{done.stderr.decode(errors='replace')}")
    return said


def read(name):
    with open(name, "rb") as file:
        return file.read()


def text():
    with open("text", "w") as file:
        file.write("".join(f"the {i % 13} small waves reach ring {i * i % 31} of the atoll.\n"
                           for i in range(900)))
    return "text"


def train(*arguments, **more):
    return trainer("train", text(), *SMALL, *arguments, **more)


def cut_off(number, state):
    """Begins a long training, and ends it with a signal once its state was written at least
    once."""
    process = subprocess.Popen([TRAINER, "train", text(), *SMALL, "--steps", "100000",
                                "--save-every", "3", "--state", state],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(6000):
        if os.path.exists(state) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(number)
    out, said = process.communicate(timeout=60)
    return process.returncode, out.decode(), said.decode()


def steps_of(state):
    data = read(state)
    size = int.from_bytes(data[17:21], "little")
    return int.from_bytes(data[21 + size:29 + size], "little")


def resumed_equals_whole(state):
    done = steps_of(state)
    assert done > 0
    train("--steps", done + 7, "--state", state)
    train("--steps", done + 7, "--state", "whole")
    assert read(state) == read("whole"), f"the state differs after {done} + 7 steps"


def test_killed_and_resumed_equals_uninterrupted():
    code, _, _ = cut_off(signal.SIGKILL, "killed")
    assert code == -signal.SIGKILL
    resumed_equals_whole("killed")


def test_a_signal_ends_it_in_order_with_its_state_written():
    for number in (signal.SIGTERM, signal.SIGINT):
        code, out, said = cut_off(number, f"state{number}")
        assert code == 0 and "stopped=true" in out and "the same command goes on" in said, (
            code, out, said)
        assert f"steps={steps_of(f'state{number}')} " in out, out
    resumed_equals_whole(f"state{signal.SIGTERM}")


def test_one_flipped_bit_of_a_state_is_noticed():
    train("--steps", 3, "--state", "state")
    good = read("state")
    for place in (0, len(good) // 3, len(good) - 1):  # the first line, a parameter, the checksum
        with open("state", "wb") as file:
            file.write(good[:place] + bytes([good[place] ^ 1]) + good[place + 1:])
        said = trainer("train", text(), *SMALL, "--steps", 6, "--state", "state",
                    code=1)
        assert "training state" in said and "damaged" in said, said
        assert len(read("state")) == len(good) and read("state") != good  # kept as evidence


def test_log_plot_and_progress_are_written():
    said = subprocess.run([TRAINER, "train", text(), *SMALL, "--steps", "10",
                           "--log", "log.csv", "--plot", "p.svg"], capture_output=True, text=True)
    assert ("memory: training takes" in said.stderr and "trained step=10 loss=" in said.stderr and
            "tokens_per_second=" in said.stderr)
    assert len(read("log.csv").splitlines()) == 3
    xml.dom.minidom.parse("p.svg")
    train("--steps", 10, "--log", "log.jsonl")
    assert [json.loads(line)["step"] for line in read("log.jsonl").splitlines()] == [5, 10]


def test_eval_and_generate_work_on_an_exported_directory():
    train("--steps", 30, "--learning-rate", 0.01, "--export", "model")
    windows = ("--length", 32, "--evaluate-windows", 0, "--kernels", "portable")
    by_file = trainer("eval", "model", "text", "--heldout", 1, *windows)
    by_text = trainer("eval", "model", "--text", "text", *windows)
    assert by_file == by_text and 0 < float(by_file.split("heldout_nats=")[1].split()[0]) < 5, (
        by_file, by_text)
    one = trainer("generate", "model", "--prompt", "the ", "--sample", 20, "--seed", 7)
    assert one.startswith("the ") and one == trainer("generate", "model", "--prompt", "the ",
                                                  "--sample", 20, "--seed", 7)
    assert len(trainer("generate", "model", "--tokens", "1 2", "--sample", 3).split()) == 5
    os.remove("model/tokenizer.json")
    assert trainer("generate", "model", "--prompt", "the ", "--sample", 20, "--seed", 7) == one
    shutil.copy(os.path.join(ROOT, "tests/golden/tokenizer_gpt2.json"), "model/tokenizer.json")
    assert "beyond the model's vocabulary" in trainer("generate", "model",
                                                   "--prompt", "<|end|> theory of other",
                                                   "--sample", 1, code=2)


def test_generate_ends_at_the_token_that_ends_a_text():
    train("--steps", 5, "--export", "model")
    words = trainer("generate", "model", "--tokens", "1 2", "--sample", 8, "--seed", 7).split()
    path = os.path.join("model", "config.json")
    with open(path) as file:
        config = json.load(file)
    config["eos_token_id"] = [int(words[6])]  # one that will be drawn
    with open(path, "w") as file:
        json.dump(config, file)
    until = words[2:].index(words[6]) + 2
    assert trainer("generate", "model", "--tokens", "1 2", "--sample", 8,
                "--seed", 7).split() == words[:until]
    assert trainer("generate", "model", "--tokens", "1 2", "--sample", 8, "--seed", 7,
                "--ignore-eos").split() == words


def test_a_model_with_a_tokenizer_of_its_own_reads_and_writes_text():
    shape = ("--vocabulary 420 --hidden 32 --layers 1 --heads 4 --kv-heads 2 --ffn 48 --context 64 "
             "--sequences 8 --length 32".split())
    trainer("train", text(), *shape, "--steps", 2, "--export", "model")
    assert "no tokenizer.json" in trainer("generate", "model", "--prompt", "x", code=2)
    shutil.copy(os.path.join(ROOT, "tests/golden/tokenizer_llama3.json"), "model/tokenizer.json")
    assert trainer("generate", "model", "--prompt", "the théory",
                "--sample", 30).startswith("the théory")
    assert "heldout_nats=" in trainer("eval", "model", "--text", "text", "--length", 32)


def test_what_is_wrong_is_said_with_what_to_do():
    for verb in ("train", "eval", "generate"):
        arguments = [verb, "model", "--help"] if verb != "train" else [verb, "--help"]
        assert "Exit codes: 0 done" in trainer(*arguments)


def test_what_does_not_fit_is_refused_with_what_would():
    if "asan" in TRAINER or "tsan" in TRAINER:
        return  # a sanitizer's shadow memory does not fit below any limit

    def little():
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))

    said = trainer("train", text(), "--preset", "12m", "--kernels", "portable", code=1,
                preexec_fn=little)
    assert "memory: training takes" in said and "and fits" in said, said
    said = trainer("train", text(), "--preset", "8b", code=1, preexec_fn=little)
    assert 'the largest preset that fits is "' in said, said


def main():
    passed = failed = 0
    for name, body in list(globals().items()):
        if not name.startswith("test_") or (sys.argv[1:] and name[5:] not in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                body()
                print("ok  ", name[5:])
                passed += 1
            except Exception as error:
                print("FAIL", name[5:], "-", type(error).__name__, error)
                failed += 1
            os.chdir("/")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
