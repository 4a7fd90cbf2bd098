#!/usr/bin/env python3
"""What a site keeps on its disk and in memory, with real processes: shared payloads, slow and full
disks, restarts, clocks.

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
from federation_test import (FAST, PROGRAMS, SLOWDOWN, check, contains,  # noqa: E402
                             equal, fill, main, prove, small_disk, test, trains)
from federation_harness import ROOT, Federation, manifest  # noqa: E402

federation_test.TESTS.clear()


def preloaded(directory, name, variable, value):
    """The environment of a program with tests/NAME.c before its libraries; the value is in a file
    and may change."""
    library, figure = os.path.join(directory, name + ".so"), os.path.join(directory, name)
    if not os.path.exists(library):
        source = os.path.join(ROOT, "tests", name + ".c")
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", library,
                        source, "-ldl"], check=True)
    with open(figure + ".new", "w") as file:
        file.write(str(value))
    os.rename(figure + ".new", figure)
    return {"LD_PRELOAD": library, variable: figure}


def slow_disk(directory, ms):
    """A disk that takes that long for each sync."""
    return preloaded(directory, "slow_disk", "SLOW_DISK_FILE", ms)


def shifted_clock(directory, seconds):
    """A wall clock that is so far ahead."""
    return preloaded(directory, "shifted_clock", "SHIFTED_CLOCK_FILE", seconds)


# ---- one payload, several contributions --------------------------------------------------------


@test
def sites_whose_deltas_are_all_equal_go_on_and_nothing_is_lost(directory):
    """The learning rate reaches 0, so all deltas are the same bytes. The disk is slow, so that
    again and again a checkpoint ends, and with it the need for a step's payload, while a
    contribution with the same payload waits."""
    text = manifest(mode="dense", sites=3, inner_steps=2)
    text = text.replace(
        "  learning_rate: 1e-3\n",
        "  learning_rate: 1e-3\n  schedule: linear\n  decay_tokens: 1500\n  floor: 0\n")
    federation = Federation(PROGRAMS, directory, text)
    federation.start_coordinator()
    sites = [federation.add_site(name, *FAST, start=False) for name in ("one", "two", "three")]
    for site in sites:
        site.environment = slow_disk(directory, 80)
        site.start()
    federation.until("a learning rate of 0",
                     lambda: all(s.status().get("learning_rate") == 0 for s in sites),
                     20 * SLOWDOWN)
    had, checkpoints = [len(s.receipts) for s in sites], [s.text().count(" checkpoint_written ")
                                                          for s in sites]
    federation.until("rounds and checkpoints after it",
                     lambda: all(len(s.receipts) >= r + 20 and
                                 s.text().count(" checkpoint_written ") >= c + 12
                                 for s, r, c in zip(sites, had, checkpoints)), 60 * SLOWDOWN)
    for site in sites:  # what a restart needs is there as well
        site.kill()
        site.start()
    had = [len(s.receipts) for s in sites]
    federation.until("receipts after a restart",
                     lambda: all(len(s.receipts) >= n + 3 for s, n in zip(sites, had)),
                     20 * SLOWDOWN)
    prove(federation)
    equal_ones = len(federation.contributions) - len({e["payload"]
                                                      for e in federation.contributions})
    check(equal_ones >= 60, "contributions with the same payload:", equal_ones)


# ---- restarts ----------------------------------------------------------------------------------


@test
def a_site_that_is_restarted_more_often_than_once_a_round_contributes_and_counts_every_step(
    directory):
    """A round has 120 steps, and no process gets beyond 50: some end by a signal, some are killed
    after a checkpoint."""
    federation = Federation(PROGRAMS, directory, manifest(sites=1, inner_steps=120))
    federation.start_coordinator()
    site = federation.add_site("one", "--pace", "40ms", "--checkpoint-interval", "1s", start=False)
    for attempt in range(24):
        site.start()
        if attempt % 4 == 3:  # killed: a round's progress is what the last checkpoint has
            written = site.text().count(" checkpoint_written ")
            federation.until("a checkpoint",
                             lambda: site.text().count(" checkpoint_written ") > written,
                             20 * SLOWDOWN)
            site.kill()
            continue
        starts = site.status().get("starts", 0)
        federation.until("some steps", lambda: site.status().get("starts", 0) > starts and
                         site.status().get("steps", 0) >= 20, 20 * SLOWDOWN)
        equal(site.end(10 * SLOWDOWN), 0, "exit code")
        if len(site.receipts) >= 2:
            break
    check(len(site.receipts) >= 2, "no contribution in", attempt + 1, "starts")
    trained = site.status()["trainer_tokens"]
    federation.coordinator.end(10 * SLOWDOWN)
    contributions = [e for e in federation.ledger() if e["kind"] == "contribution"]
    check(all(e["inner_steps"] >= 120 for e in contributions), "steps:",
          [e["inner_steps"] for e in contributions])
    equal({e["tokens"] / e["inner_steps"] for e in contributions}, {64.0}, "tokens a step")
    check(sum(e["tokens"] for e in contributions) <= trained, "more was counted than was trained")


# ---- a producer by the clock, a consumer by the disk -------------------------------------------


def peak_memory(site):
    with open(f"/proc/{site.handle.pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


@test
def checkpoints_do_not_pile_up_in_front_of_a_slow_disk(directory):
    """A checkpoint falls due each second; writing one takes several. What is not written yet is one
    capture, so memory stays where it was after the first."""
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
    # rounds so long that none ended meanwhile
    federation.ctl("run", "set", "inner.inner_steps", "10", "--reason", "longer")
    trains(federation, 2)
    prove(federation)


# ---- files that were cut short -----------------------------------------------------------------


@test
def a_site_whose_own_files_are_cut_ends_for_good_and_says_which_one(directory):
    """What a crash of the machine may leave of a file. A restart would only meet it again: exit
    code 3, and what is wrong."""
    federation = Federation(PROGRAMS, directory, manifest(sites=1))
    federation.start_coordinator()
    site = federation.add_site("one", *FAST)
    trains(federation, 3)
    equal(site.end(10 * SLOWDOWN), 0, "exit code")
    for name in ("ca.pem", "manifest.yaml", "node.key", "node.pem", "site.json"):
        path = os.path.join(site.directory, name)
        with open(path, "rb") as file:
            whole = file.read()
        os.truncate(path, 0)
        asked = federation.call("atoll-node", "run", "--dir", site.directory, check=False)
        equal(asked.returncode, 3, f"the exit code without {name}")
        contains(asked.stderr, name)
        with open(path, "wb") as file:
            file.write(whole)
    site.start()
    goes_on(federation, site)
    prove(federation)


# ---- what is waited out ------------------------------------------------------------------------


def troubles(site):
    return {trouble["what"]: trouble["message"] for trouble in site.status().get("troubles", [])}


def goes_on(federation, site, count=3):
    had = len(site.receipts)
    federation.until("receipts", lambda: len(site.receipts) >= had + count, 40 * SLOWDOWN)
    federation.until("readiness", lambda: site.status().get("ready") is True, 10 * SLOWDOWN)
    equal(troubles(site), {}, "troubles")
    federation.call("atoll-node", "status", "--ready", "--dir", site.directory)


@test
def a_full_disk_at_a_site_is_waited_out_and_named(directory):
    """Full for a while, over a restart too: the site never ends by itself, says what is wrong, and
    goes on once there is room."""
    federation = Federation(PROGRAMS, directory, manifest(fragments=2), disks={"sites/one": 24},
                            mount=small_disk)
    federation.start_coordinator()
    site, other = [federation.add_site(name, *FAST, "--retry-limit", "2s")
                   for name in ("one", "two")]
    trains(federation, 5)
    for restart in (False, True):
        filler = fill(site.directory)
        federation.until("the disk is named", lambda: "disk" in troubles(site), 20 * SLOWDOWN)
        contains(troubles(site)["disk"], "No space left")
        equal(site.status()["ready"], False, "ready")
        asked = federation.call("atoll-node", "status", "--ready", "--dir", site.directory,
                                check=False)
        equal(asked.returncode, 1, "the exit code of status --ready")
        contains(asked.stderr, "not ready")
        check(re.search(r"^error \S+ waits .*for=disk .*make room", site.text(), re.M),
              "nothing at error:", site.tail())
        if restart:
            equal(site.end(10 * SLOWDOWN), 0, "exit code at a signal")
            site.start()
            federation.until("it waits again", lambda: site.text().count(" waits ") >= 3,
                             20 * SLOWDOWN)
        had = len(other.receipts)
        federation.until("the other goes on", lambda: len(other.receipts) >= had + 3, 20 * SLOWDOWN)
        os.unlink(filler)
        goes_on(federation, site)
    prove(federation)


@test
def a_disk_that_is_full_at_a_sites_first_start_is_waited_out(directory):
    """Nothing of the journal is there yet. At each size of what is left the site waits, says so,
    and begins once there is room."""
    for free in (0, 3, 5, 7):
        federation = Federation(PROGRAMS, os.path.join(directory, str(free)), manifest(sites=1),
                                disks={"sites/one": 24}, mount=small_disk)
        federation.start_coordinator()
        site = federation.add_site("one", *FAST, start=False)
        filler = fill(site.directory)
        os.truncate(filler, max(os.path.getsize(filler) - free * 4096, 0))
        site.start()
        federation.until("the disk is named",
                         lambda: re.search(r"^error \S+ waits .*for=disk", site.text(), re.M),
                         20 * SLOWDOWN)
        os.unlink(filler)
        federation.until("receipts", lambda: len(site.receipts) >= 3, 40 * SLOWDOWN)
        equal(site.end(10 * SLOWDOWN), 0, "exit code")
        federation.close()


@test
def a_clock_that_is_off_at_a_site_is_named_and_refuses_nothing(directory):
    """Two days ahead: certificates hold, and contributions would be expired. Twenty years behind:
    no certificate holds yet."""
    federation = Federation(PROGRAMS, directory, manifest(sites=1, admission__expiry="1h"))
    federation.start_coordinator()
    site = federation.add_site("one", *FAST, "--retry-limit", "2s", start=False)
    site.environment = shifted_clock(directory, 2 * 86400)
    site.start()
    federation.until("the clock is named", lambda: "clock" in troubles(site), 20 * SLOWDOWN)
    contains(troubles(site)["clock"], "ahead of the coordinator's")
    had = len(site.receipts)
    federation.until("receipts all the same", lambda: len(site.receipts) >= had + 5, 20 * SLOWDOWN)
    equal(site.status()["ready"], False, "ready")
    shifted_clock(directory, 0)
    goes_on(federation, site)
    site.kill()
    shifted_clock(directory, -20 * 365 * 86400)
    site.start()
    federation.until("the clock is named", lambda: "clock" in troubles(site), 20 * SLOWDOWN)
    contains(troubles(site)["clock"], "this machine's clock says")
    shifted_clock(directory, 0)
    goes_on(federation, site)
    prove(federation)
    refused = site.status()["refused"].get("expired", 0)
    check(refused <= 3, "contributions refused as expired:", refused)


def asks_ready(federation):
    return federation.ctl("run", "status", "--ready", check=False)


@test
def a_coordinator_whose_clock_is_off_names_it_and_shuts_nobody_out(directory):
    """Three days ahead: what sites send is taken, an invitation of a right clock is not wasted, and
    everybody is told whose clock it is. Once the clock is set the coordinator is ready, and the
    same invitation is good."""
    federation = Federation(PROGRAMS, directory, manifest(sites=3, admission__expiry="1h"))
    federation.start_coordinator()
    equal(federation.coordinator.end(10 * SLOWDOWN), 0, "exit code")
    federation.coordinator.environment = shifted_clock(directory, 0)
    federation.start_coordinator()
    sites = [federation.add_site(name, *FAST) for name in ("one", "two")]
    trains(federation, 3)
    equal(asks_ready(federation).returncode, 0, "the exit code of run status --ready")
    invitation = federation.invite("three", "--expires", "1d")
    shifted_clock(directory, 3 * 86400)
    federation.until("the clock is named",
                     lambda: "this machine's clock is" in federation.status()["waits"],
                     20 * SLOWDOWN)
    contains(federation.status()["waits"], "ahead of those of 2 of 2 sites that are connected")
    check(abs(federation.status()["clock_ahead_ms"] - 3 * 86400_000) < 60_000,
          federation.status()["clock_ahead_ms"])
    asked = asks_ready(federation)
    equal(asked.returncode, 1, "the exit code of run status --ready")
    contains(asked.stderr, "not ready: this machine's clock is")
    federation.until("a word at error", lambda: re.search(r"^error \S+ clock_off .*NTP",
                                                          federation.coordinator.text(), re.M),
                     20 * SLOWDOWN)
    had = [len(site.receipts) for site in sites]
    federation.until("receipts all the same",
                     lambda: all(len(s.receipts) >= n + 3 for s, n in zip(sites, had)),
                     40 * SLOWDOWN)
    join = ("atoll-node", "join", invitation["address"], "--token-file",
            federation.token_file(invitation["token"]),
            "--run=false",
            "--dir", federation.path("sites", "three"), "--data", federation.path("text.txt"))
    joined = federation.call(*join, check=False)
    check(joined.returncode != 0, "a join by an expired invitation")
    contains(joined.stderr, "the coordinator's clock is")
    contains(joined.stderr, "the invitation holds again")
    invited = federation.ctl("site", "invite", "--name", "four", "--expires", "1d", check=False)
    equal(invited.returncode, 1, "the exit code of an invitation that would have expired")
    contains(invited.stderr, "by the coordinator's clock")
    shifted_clock(directory, 0)
    federation.until("readiness", lambda: asks_ready(federation).returncode == 0, 20 * SLOWDOWN)
    equal(federation.status()["waits"], "", "waits")
    federation.call(*join)
    prove(federation)


if __name__ == "__main__":
    sys.exit(main())
