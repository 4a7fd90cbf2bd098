"""What tests/scripts_gpu_check_test.sh runs: scripts/gpu-check from its first part to its last over
the emulation, with parts that fail and hang and a device that is lost, and scripts/gpu-report of
real and made-up results."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

from script_test import DEADLINE_S, ROOT, Skip, main, read, run, write

CHECK = os.path.join(ROOT, "scripts/gpu-check")
REPORT = os.path.join(ROOT, "scripts/gpu-report")
BUILT = os.path.dirname(os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build/release/bin"))
TESTS = ["kernels_cuda_backend_test", "kernels_cuda_training_test", "codec_device_test",
         "model_device_trainer_test"]
PARTS = ["device", "parity-operations", "parity-training", "codec", "step", "curve", "ceilings",
         "speed-atoll-mma", "speed-torch-bf16-compiled", "speed-atoll-wgmma", "codec-speed",
         "attention", "kernels", "memcheck-kernels_cuda_training",
         "memcheck-codec_device", "memcheck-model_device_trainer",
         "racecheck-kernels_cuda_training", "racecheck-codec_device", "record", "other-library"]


def script(name, body):
    write(name, "#!/bin/sh\n" + body)
    os.chmod(name, 0o755)
    return os.path.abspath(name)


def kit():
    """The kit as `make gpu-kit` lays it out, but with the emulation as both libraries."""
    library = os.path.join(BUILT, "tests/atoll-kernels-emulated.so")
    if not os.path.exists(library):
        raise Skip("there is no emulation: no C++ compiler was found")
    os.makedirs("kit/gpu")
    os.makedirs("kit/bin")
    for name in TESTS:
        shutil.copy(os.path.join(BUILT, "tests", name), "kit/gpu")
    for name in ("train", "gpu_codec"):
        shutil.copy(os.path.join(BUILT, "bench", name), "kit/gpu")
    shutil.copy(os.path.join(BUILT, "bin/atoll-cuda-probe"), "kit/bin")
    for name in ("atoll-kernels-cuda.so", "atoll-kernels-cuda-sm_90a.so"):
        shutil.copy(library, os.path.join("kit/bin", name))
    write("kit/kit.json", json.dumps({"commit": "abc1234", "nvcc": "13.0"}))


def check(*arguments, code=0):
    done = subprocess.run([sys.executable, CHECK, "--quick", "--tiny", "--kit", "kit",
                           "--rounds", "1", "--seconds", "0.05", "--elements", "20000",
                           "--python", sys.executable, "out", *map(str, arguments)],
                          capture_output=True, text=True, timeout=3 * DEADLINE_S)
    assert done.returncode == code, (
        f"exit {done.returncode}, wanted {code}: {done.stdout}\n{done.stderr}")
    return [json.loads(line) for line in read("out/results.jsonl").decode().splitlines()]


def by_name(lines):
    return {line["part"]: line for line in lines}


def test_every_part_has_its_line_from_the_first_to_the_last():
    kit()
    sanitizer = script("sanitizer", '[ "$1 $3 $5" = "--tool --error-exitcode --target-processes" ] '
                       '|| exit 9\necho "$2" >>tools\nshift 6\nexec "$@"\n')
    profiler = script(
        "profiler",
        '[ "$1" = --version ] && exit 0\nshift 7\n"$@" || exit\necho \'"ID","Kernel Name","Metric '
        'Name","Metric Unit","Metric Value"\'\nfor i in 1 2 3; do\necho \'"1","void (anonymous '
        'namespace)::attend<64>(int, float *)","gpu__time_duration.sum","us","1,500.0"\'\necho '
        '\'"2","embed_gradient(int)","gpu__time_duration.sum","us","20.0"\'\ndone\n')
    lines = check("--sanitizer", sanitizer, "--profiler", profiler)
    assert [line["part"] for line in lines] == PARTS
    found = by_name(lines)
    for name, line in found.items():
        wanted = "skipped" if name == "ceilings" or name.startswith("speed-torch") else "passed"
        assert line["status"] == wanted and (wanted == "passed") == (line["reason"] is None), line
    assert found["device"]["results"]["kit"]["commit"] == "abc1234"
    assert found["device"]["results"]["library"] == "atoll-kernels-cuda-sm_90a.so"
    for name in ("parity-operations", "parity-training", "codec", "step"):
        assert (found[name]["results"]["passed"] > 0 and
                found[name]["results"]["compared_with"].startswith("emulated")), name
    assert read("tools").split() == [b"memcheck"] * 3 + [b"racecheck"] * 2
    for way in ("mma", "wgmma"):
        assert found[f"speed-atoll-{way}"]["results"]["tokens_per_second"] > 0
    kernels = found["kernels"]["results"]
    assert kernels["passes"] == 3 and kernels["kernels"]["attend"] == {"launches": 1.0,
                                                                       "ms": 1.5}, kernels
    text = run(REPORT, "out")
    assert "`attend`" in text and "ceilings | skipped" in text and "| failed |" not in text, text
    # The federation that was recorded is replayed by the whole program, with the CPU's bits.
    replayed = subprocess.run(
        [os.path.join(BUILT, "tests/fed_device_test"), "--only",
         "a_record_from_another_machine_has_the_cpus_state_root"], capture_output=True, text=True,
        env={**os.environ, "ATOLL_TEST_DEVICE_RECORD": os.path.abspath("out/federation.record")})
    assert (replayed.returncode == 0 and
            "have the CPU's state root" in replayed.stdout), replayed.stdout + replayed.stderr


def test_a_part_that_fails_or_hangs_costs_only_itself():
    kit()
    script("kit/gpu/kernels_cuda_backend_test", "echo 'ok   1     ms a_good_one'\necho 'FAIL 2     "
           "ms a_bad_one: exit code 97'\necho '1 passed, 1 failed'\nexit 1\n")
    # It ignores the polite signal and leaves a child behind that holds its output.
    script("kit/gpu/kernels_cuda_training_test",
           "trap '' TERM\nsleep 1000 &\necho $! >child\nsleep 1000\n")
    script("kit/bin/atoll-cuda-probe", "exec sleep 1000\n")
    chosen = ["parity-operations", "parity-training", "codec", "attention", "record"]
    found = by_name(check(*(word for name in chosen for word in ("--only", name)),
                          "--deadline-s", 20, code=1))
    assert list(found) == ["device", *chosen]
    assert {name: line["status"] for name, line in found.items()} == {
        "device": "passed", "parity-operations": "failed", "parity-training": "hung",
        "codec": "passed", "attention": "hung", "record": "passed"}
    assert ("a_bad_one" in found["parity-operations"]["reason"] and
            found["parity-operations"]["results"]["failures"] == ["a_bad_one"])
    assert found["parity-training"]["reason"] == "no end within 20 s", found["parity-training"]
    child = int(read("child"))
    for _ in range(100):
        try:
            with open(f"/proc/{child}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    break
        except FileNotFoundError:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("what the part started is still running")
    text = run(REPORT, "out")
    assert text.index("parity-operations | failed") < text.index(
        "every training kernel" if "every training" in text else "Floors")


def lose_the_device(times):
    """Once a model's step was tried the device is gone, for so many times that somebody asks."""
    shutil.move("kit/gpu/gpu_codec", "kit/gpu/really_gpu_codec")
    script("kit/gpu/gpu_codec", 'left=$(cat lost 2>/dev/null || echo 0)\nif [ "$left" -gt 0 ]; '
           'then echo $((left - 1)) >lost; EMULATED_DEVICES=0; export EMULATED_DEVICES; fi\nexec '
           '"$(dirname "$0")/really_gpu_codec" "$@"\n')
    script("kit/gpu/model_device_trainer_test",
           f"echo {times} >lost\necho 'an illegal address was met' >&2\nexit 97\n")


def test_a_device_that_is_lost_is_said_of_each_part_that_it_keeps_from_running():
    kit()
    lose_the_device(1000)
    found = by_name(check("--only", "codec", "--only", "step", "--only", "codec-speed",
                          "--only", "attention", "--only", "record", code=1))
    assert [line["status"] for line in found.values()] == ["passed", "passed", "failed", "lost",
                                                           "lost", "lost"]
    assert "there is no device" in found["codec-speed"]["reason"], found["codec-speed"]
    assert "did not come back" in found["record"]["reason"], found["record"]


def test_a_device_that_comes_back_is_used_again():
    kit()
    lose_the_device(1)
    found = by_name(check("--only", "step", "--only", "codec-speed", "--only", "attention", code=1))
    assert [line["status"] for line in found.values()] == ["passed", "failed", "lost", "passed"]


def test_what_was_done_is_there_when_the_check_is_cut_off():
    kit()
    script("kit/gpu/codec_device_test", "echo begun >begun\nexec sleep 1000\n")
    process = subprocess.Popen([sys.executable, CHECK, "--quick", "--tiny", "--kit", "kit", "out",
                                "--only", "parity-operations", "--only", "codec"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not os.path.exists("begun") and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=DEADLINE_S)[1]
    assert process.returncode == 1 and "stopped" in said, said
    lines = read("out/results.jsonl").decode().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["passed", "passed"]
    # a line that was cut in its middle
    write("out/results.jsonl", "\n".join(lines) + '\n{"part": "codec", "sta')
    assert "operations with fixed bits" in run(REPORT, "out")


def test_wrong_usage_says_what_to_do():
    said = run(CHECK, "--quick", "--kit", "nowhere", "out", code=2)
    assert "no kit in" in said and "make gpu-kit" in said, said
    kit()
    said = run(CHECK, "--quick", "--kit", "kit", "--only", "nothing", "out", code=2)
    assert "there is no part nothing" in said, said
    said = run(CHECK, "--quick", "--kit", "kit", code=2)
    assert "where the results go" in said, said
    os.makedirs("full")
    write("full/results.jsonl", "{}\n")
    said = run(CHECK, "--quick", "--kit", "kit", "full", code=2)
    assert "has results already" in said, said


def test_all_of_it_takes_eight_minutes_at_most_by_estimate():
    kit()
    listed = run(CHECK, "--quick", "--kit", "kit", "--list").splitlines()
    assert [line.split()[0] for line in listed[:-1]] == PARTS
    assert float(listed[-1].split(",")[1].split()[0]) <= 8, listed[-1]


MADE_UP = [
    {"part": "device",
     "results": {"device": "NVIDIA H200, 139 GiB, compute 9.0", "date": "2026-11-29",
                 "nvidia_smi": "NVIDIA H200, 580.1", "library": "atoll-kernels-cuda-sm_90a.so",
                 "kit": {"commit": "abc1234", "nvcc": "13.0"}}},
    {"part": "parity-training", "about": "every training kernel", "status": "failed",
     "reason": "attention is wrong",
     "results": {"passed": 7, "failures": ["attention"], "compared_with": "NVIDIA H200"}},
    {"part": "codec", "about": "messages",
     "results": {"passed": 13, "failures": [], "compared_with": "NVIDIA H200"}},
    {"part": "ceilings", "results": {"bytes_per_second": 4e12, "flops_per_second": 8e14}},
    {"part": "speed-atoll-mma",
     "results": {"contestant": "atoll-mma", "shape": "124m", "tokens_per_second": 600000,
                 "step_ms": 54.6, "mfu": 0.5}},
    {"part": "speed-torch-bf16-compiled",
     "results": {"contestant": "torch-bf16-compiled", "shape": "124m", "tokens_per_second": 500000,
                 "step_ms": 65.5, "mfu": 0.41, "torch": "2.11"}},
    {"part": "codec-speed",
     "results": {"parameters": 10 ** 8, "topk2-64": {"encode_ms": 1.5, "step_ms": 2.5}}},
    {"part": "attention", "results":
     {"rows": [{"sequences": 32, "length": 1024, "heads": 12, "head_size": 64, "distance": 0.001,
                "forward_flops": 8e11, "ms": {"mma.sync": [2.0, 5.0], "wgmma": None}}]}},
    {"part": "kernels", "results": {"shape": "124m", "passes": 2, "kernels": {
        "nvjet_tst": {"launches": 80, "ms": 40.0}, "adamw_piece": {"launches": 1, "ms": 1.9},
        "swiglu": {"launches": 12, "ms": 1.3}}}},
    {"part": "racecheck-codec", "about": "racecheck", "status": "hung",
     "reason": "no end within 60 s", "results": {}},
    {"part": "record", "about": "a record", "status": "lost",
     "reason": "the device did not come back", "results": {}},
]


def test_a_report_has_measured_beside_floor_expectation_and_bar_and_failures_first():
    os.makedirs("made-up")
    write("made-up/results.jsonl",
          "".join(json.dumps({"about": "", "status": "passed", "reason": None, **line}) + "\n"
                  for line in MADE_UP))
    text = run(REPORT, "made-up")
    head, rest = text.split("Floors:")
    assert "NVIDIA H200, 139 GiB" in head and "2026-11-29" in head and "580.1" in head
    assert head.index("parity-training | "
                      "failed") < head.index("racecheck-codec | hung") < head.index("record | lost")
    assert "4.00 TB/s and 800 TFLOP/s, measured in the same run" in rest
    assert "| 124m | atoll-mma | 600,000 | 54.6 | 50.0% | 1.200 | 1.15 |" in rest, rest
    assert "| topk2-64 | encode | 1.50 | 0.41 | 1.4 to 1.9 | 2 | reached |" in rest, rest
    assert ("| topk2-64 | decode and outer step | 2.50 | 0.01 | 0.2 | 2 | **not reached** "
            "|" in rest), rest
    assert "| 32 x 1024, 12 x 64 | mma.sync | backward | 5.000 | 2.50 | 400 | 0.001 |" in rest, rest
    assert ("losses against the floor: `matrix products` 9.53 ms, `adamw_piece` 0.97 ms, `swiglu` "
            "0.10 ms" in rest), rest
    page = write("page.md",
                 "above\n<!-- gpu-report: begin -->\nold\n<!-- gpu-report: end -->\nbelow\n")
    for _ in range(2):
        run(REPORT, "made-up", "--into", page)
        assert (read(page).decode() ==
                f"above\n<!-- gpu-report: begin -->\n{text}<!-- gpu-report: end -->\nbelow\n")


def test_a_report_of_nothing_says_what_is_missing():
    said = run(REPORT, "absent", code=2)
    assert "absent/results.jsonl" in said and "gpu-check --quick absent" in said, said
    os.makedirs("bad")
    write("bad/results.jsonl", '{"part"\n{}\n')
    assert "bad/results.jsonl:1" in run(REPORT, "bad", code=2)
    write("bad/results.jsonl", "")
    assert "no results" in run(REPORT, "bad", code=2)
    write("bad/results.jsonl",
          json.dumps({"status": "passed", "reason": None, "about": "", **MADE_UP[0]}) + "\n")
    assert "needs one line" in run(REPORT, "bad", "--into", write("page.md", "no marks"), code=2)


if __name__ == "__main__":
    sys.exit(main(globals()))
