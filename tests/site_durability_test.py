#!/usr/bin/env python3
"""What a site keeps on its disk and in memory, with real processes: shared payloads, slow and full disks, restarts, clocks.

    ATOLL_BIN=build/release/bin tests/site_durability_test.sh [PATTERN ...]

Tests run as those of tests/federation_test.py do.
"""
import os
import re
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import federation_test  # noqa: E402
from federation_test import FAST, PROGRAMS, SLOWDOWN, check, equal, main, prove, test  # noqa: E402
from federation_harness import ROOT, Federation, manifest  # noqa: E402

federation_test.TESTS.clear()


def slow_disk(directory, ms):
    """The environment of a program whose disk takes that long for each sync; the figure is in a file and may change."""
    library, figure = os.path.join(directory, "slow_disk.so"), os.path.join(directory, "slow_disk_ms")
    if not os.path.exists(library):
        source = os.path.join(ROOT, "tests", "slow_disk.c")
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    with open(figure, "w") as file:
        file.write(str(ms))
    return {"LD_PRELOAD": library, "SLOW_DISK_FILE": figure}


# ---- one payload, several contributions ---------------------------------------------------------------------------------------


@test
def sites_whose_deltas_are_all_equal_go_on_and_nothing_is_lost(directory):
    """The learning rate reaches 0, so all deltas are the same bytes. The disk is slow, so that again and again a checkpoint ends,
    and with it the need for a step's payload, while a contribution with the same payload waits."""
    text = manifest(mode="dense", sites=3, inner_steps=2)
    text = text.replace("  learning_rate: 1e-3\n", "  learning_rate: 1e-3\n  schedule: linear\n  decay_tokens: 1500\n  floor: 0\n")
    federation = Federation(PROGRAMS, directory, text)
    federation.start_coordinator()
    sites = [federation.add_site(name, *FAST, start=False) for name in ("one", "two", "three")]
    for site in sites:
        site.environment = slow_disk(directory, 80)
        site.start()
    federation.until("a learning rate of 0", lambda: all(s.status().get("learning_rate") == 0 for s in sites), 20 * SLOWDOWN)
    had, checkpoints = [len(s.receipts) for s in sites], [s.text().count(" checkpoint_written ") for s in sites]
    federation.until("rounds and checkpoints after it", lambda: all(
        len(s.receipts) >= r + 20 and s.text().count(" checkpoint_written ") >= c + 12 for s, r, c in zip(sites, had, checkpoints)),
        60 * SLOWDOWN)
    for site in sites:  # what a restart needs is there as well
        site.kill()
        site.start()
    had = [len(s.receipts) for s in sites]
    federation.until("receipts after a restart", lambda: all(len(s.receipts) >= n + 3 for s, n in zip(sites, had)), 20 * SLOWDOWN)
    prove(federation)
    equal_ones = len(federation.contributions) - len({e["payload"] for e in federation.contributions})
    check(equal_ones >= 60, "contributions with the same payload:", equal_ones)


# ---- restarts -----------------------------------------------------------------------------------------------------------------


@test
def a_site_that_is_restarted_more_often_than_once_a_round_contributes_and_counts_every_step(directory):
    """A round has 120 steps, and no process gets beyond 50: some end by a signal, some are killed after a checkpoint."""
    federation = Federation(PROGRAMS, directory, manifest(sites=1, inner_steps=120))
    federation.start_coordinator()
    site = federation.add_site("one", "--pace", "40ms", "--checkpoint-interval", "1s", start=False)
    for attempt in range(24):
        site.start()
        if attempt % 4 == 3:  # killed: a round's progress is what the last checkpoint has
            written = site.text().count(" checkpoint_written ")
            federation.until("a checkpoint", lambda: site.text().count(" checkpoint_written ") > written, 20 * SLOWDOWN)
            site.kill()
            continue
        starts = site.status().get("starts", 0)
        federation.until("some steps", lambda: site.status().get("starts", 0) > starts and site.status().get("steps", 0) >= 20,
                         20 * SLOWDOWN)
        equal(site.end(10 * SLOWDOWN), 0, "exit code")
        if len(site.receipts) >= 2:
            break
    check(len(site.receipts) >= 2, "no contribution in", attempt + 1, "starts")
    trained = site.status()["trainer_tokens"]
    federation.coordinator.end(10 * SLOWDOWN)
    contributions = [e for e in federation.ledger() if e["kind"] == "contribution"]
    check(all(e["inner_steps"] >= 120 for e in contributions), "steps:", [e["inner_steps"] for e in contributions])
    equal({e["tokens"] / e["inner_steps"] for e in contributions}, {64.0}, "tokens a step")
    check(sum(e["tokens"] for e in contributions) <= trained, "more was counted than was trained")


# ---- a producer by the clock, a consumer by the disk --------------------------------------------------------------------------


def peak_memory(site):
    with open(f"/proc/{site.handle.pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


@test
def checkpoints_do_not_pile_up_in_front_of_a_slow_disk(directory):
    """A checkpoint falls due each second; writing one takes several. What is not written yet is one capture, so memory stays where
    it was after the first."""
    text = manifest(mode="dense", sites=1, inner_steps=1000)
    for key, value in (("hidden", 128), ("layers", 4), ("ffn", 384)):
        text = re.sub(rf"(?m)^  {key}: .*$", f"  {key}: {value}", text)
    federation = Federation(PROGRAMS, directory, text)
    federation.start_coordinator()
    site = federation.add_site("one", "--checkpoint-interval", "1s", start=False)
    site.environment = slow_disk(directory, 0)
    site.start()
    written = lambda: site.text().count(" checkpoint_written ")  # noqa: E731
    federation.until("two checkpoints", lambda: written() >= 2, 20 * SLOWDOWN)
    parameters = int(re.search(r" parameters=(\d+)", site.text()).group(1))
    before, had = peak_memory(site), written()
    slow_disk(directory, 900)
    federation.until("two slow ones", lambda: written() >= had + 2, 60 * SLOWDOWN)
    waited = time.monotonic()
    federation.until("a longer while", lambda: time.monotonic() - waited > 8, 20)
    grown, capture = peak_memory(site) - before, 20 * parameters
    check(grown < 2 * capture, "memory grew by", grown, "bytes, a capture has about", capture)
    slow_disk(directory, 0)
    prove(federation)


if __name__ == "__main__":
    sys.exit(main())
