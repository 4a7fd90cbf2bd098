"""What tests/load_test.sh runs: which figures of the demo and its neighbours decide an exit code,
and what keeps a machine busy."""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from script_test import DEADLINE_S, ROOT, main, write  # noqa: E402


def module(path):
    loader = importlib.machinery.SourceFileLoader(os.path.basename(path).replace("-", "_"),
                                                  os.path.join(ROOT, path))
    made = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(made)
    return made


SLOW = {"heldout_loss_start": 5.5, "heldout_loss_end": 4.9, "busy_share_min": 0.31, "wall_s": 235.0,
        "contributions_lost": 0, "contributions_twice": 0,
        "contributions_accepted": 4, "ledger_verified": True, "state_roots_equal": True,
        "exit_codes": {"a": 0, "b": 0}, "other_load": 9.0}
FAST = dict(SLOW, heldout_loss_end=1.9, busy_share_min=0.99, wall_s=110.0)
WRONG = {"contributions_lost": 1, "contributions_twice": 1, "contributions_accepted": 0,
         "ledger_verified": False, "state_roots_equal": False,
         "exit_codes": {"a": 0, "b": None}, "heldout_loss_end": 5.6}


def test_a_demo_on_a_busy_machine_has_not_failed_and_one_that_went_wrong_has():
    demo = module("scripts/demo")
    assert demo.failures(SLOW) == []
    for name, value in WRONG.items():
        assert len(demo.failures(dict(FAST, **{name: value}))) == 1, name


def test_the_bars_of_speed_are_the_bench_s():
    for summary, code in ((SLOW, 1), (FAST, 0), (dict(FAST, busy_share_min=0.96), 1),
                          (dict(FAST, heldout_loss_end=2.5), 1)):
        write("summary.json", json.dumps(summary))
        done = subprocess.run([sys.executable, os.path.join(ROOT, "bench/demo"), "summary.json"],
                              capture_output=True, text=True)
        assert done.returncode == code, (summary, done.stdout, done.stderr)


def test_a_demo_s_length_follows_what_was_trained_and_waits_for_a_first_merge():
    made = module("scripts/demo")
    demo = made.Demo(type("Options", (), {"output": "out", "seconds": 100}))
    demo.began = 0
    def trained(tokens, accepted=1):
        return [{"trainer_tokens": tokens, "accepted": accepted}]

    demo.started = time.monotonic() - 10
    assert demo.progress(trained(made.TOKENS)) >= 1, "the tokens are trained: it is over early"
    assert demo.progress(trained(1000)) < 0.5
    demo.started = time.monotonic() - 101
    assert demo.progress(trained(1000)) >= 1, "the time is over"
    assert demo.progress(trained(1000, accepted=0)) < 1, "a site has had nothing merged"
    demo.started = time.monotonic() - 101 - made.EXTENSION_S
    assert demo.progress(trained(1000, accepted=0)) >= 1, "not for ever"


def loops_below(pid):
    """The processor time of the process's children, in ticks."""
    ticks = []
    for other in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{other}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] == "R":
            ticks.append(int(other))
    return ticks


def test_busy_keeps_every_core_busy_while_the_command_runs_and_gives_its_exit_code():
    busy = os.path.join(ROOT, "bench/busy")
    process = subprocess.Popen([busy, "bash", "-c", "until [ -e go ]; do sleep 0.05; done; exit 7"])
    wanted, limit, most = len(os.sched_getaffinity(0)), time.monotonic() + DEADLINE_S, []
    while len(most) < wanted and time.monotonic() < limit:
        most = max(most, loops_below(process.pid), key=len)
        time.sleep(0.01)
    assert len(most) >= wanted, most
    write("go", "")
    assert process.wait(DEADLINE_S) == 7
    while any(os.path.exists(f"/proc/{loop}") for loop in most) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not any(os.path.exists(f"/proc/{loop}") for loop in most), "a loop outlives the command"


if __name__ == "__main__":
    sys.exit(main(globals()))
