#!/usr/bin/env python3
"""Who is there and how fast, with real processes: a site whose directory was copied, one that was
killed, one that was fast and left.

    ATOLL_BIN=build/release/bin tests/site_copied_test.sh [PATTERN ...]

Tests run as those of tests/federation_test.py do.
"""
import json
import os
import re
import shutil
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import federation_test  # noqa: E402
from federation_test import PROGRAMS, SLOWDOWN, check, equal, main, prove, test  # noqa: E402
from federation_harness import Federation, manifest  # noqa: E402
from federation import Site  # noqa: E402

federation_test.TESTS.clear()
PACED = ["--pace", "20ms"]


def copy_of(federation, site, name):
    directory = federation.path("sites", name)
    shutil.copytree(site.directory, directory)
    return Site(name, [federation.program("atoll-node"), "run", "--dir", directory],
                federation.path("logs", name + ".log"), directory)


def received(site):
    site.read()
    return len(site.receipts)


def listed(federation, name):
    return next(s for s in json.loads(federation.ctl("site", "list").stdout) if s["name"] == name)


@test
def of_a_site_that_runs_twice_the_second_is_cut_and_everybody_is_told(directory):
    federation = Federation(PROGRAMS, directory, manifest(sites=2))
    federation.start_coordinator()
    first, other = [federation.add_site(name, *PACED) for name in ("one", "two")]
    federation.until("contributions", lambda: len(first.receipts) >= 3 and len(other.receipts) >= 3,
                     30 * SLOWDOWN)
    equal(first.end(20), 0, "exit code")
    copy = copy_of(federation, first, "one-again")
    first.start()
    federation.until("it is there again", lambda: first.status().get("linked"), 30 * SLOWDOWN)
    copy.start()
    federation.until("the end of the copy", lambda: not copy.alive(), 60 * SLOWDOWN)
    equal(copy.handle.returncode, 3, "exit code of the copy")
    check("runs twice" in copy.text(), "the copy is told why:", copy.tail())
    equal(len(copy.receipts), 0, "contributions of the copy that were accepted")
    federation.until("word at the site", lambda: " site_runs_twice " in first.text(), 20 * SLOWDOWN)
    check(" site_runs_twice " in federation.coordinator.text(), "the coordinator's log names it")
    equal(listed(federation, "one")["copies_cut"], 1, "copies in the site list")
    equal(listed(federation, "two")["copies_cut"], 0, "copies of the other site")
    text = federation.call("atollctl", "--keys", os.path.join(federation.run, "keys"),
                           "--server", f"127.0.0.1:{federation.port}", "site", "list").stdout
    check("runs twice: 1 process" in text, "the site list for people:", text)
    check(federation.status()["sites_twice"] == 1, "the run's status:", federation.status())
    had = len(first.receipts)
    federation.until("contributions of the first", lambda: len(first.receipts) >= had + 3,
                     30 * SLOWDOWN)
    equal(first.status()["copies_cut"], 1, "copies in the site's status")
    prove(federation)


@test
def a_copy_that_ran_while_the_site_was_down_is_told_and_one_is_cut(directory):
    federation = Federation(PROGRAMS, directory, manifest(sites=2))
    federation.start_coordinator()
    first, other = [federation.add_site(name, *PACED) for name in ("one", "two")]
    federation.until("contributions", lambda: len(first.receipts) >= 3 and len(other.receipts) >= 3,
                     30 * SLOWDOWN)
    del federation.sites["one"]  # it comes and goes
    equal(first.end(20), 0, "exit code")
    copy = copy_of(federation, first, "one-again")
    copy.start()
    federation.until("contributions of the copy", lambda: received(copy) >= 3, 60 * SLOWDOWN)
    equal(copy.end(20), 0, "exit code of the copy")
    first.start()
    federation.until("the end of the first", lambda: not first.alive(), 60 * SLOWDOWN)
    equal(first.handle.returncode, 3, "exit code of the first")
    # The coordinator's answer and the site's own look at the ledger race; either names both causes.
    told = ("were made elsewhere: a copy ran, or this is an old backup",
            "was not made here: a copy of this directory")
    check(any(words in first.text() for words in told), "it is told why:", first.tail())
    check("--restored" in first.text(), "and what to do:", first.tail())
    check("came back without its contributions" in federation.coordinator.text(),
          "the coordinator's log names it")
    equal(listed(federation, "one")["copies_cut"], 1, "copies in the site list")
    check(federation.status()["sites_twice"] == 1, "the run's status:", federation.status())
    text = federation.call("atollctl", "--keys", os.path.join(federation.run, "keys"),
                           "--server", f"127.0.0.1:{federation.port}", "site", "list").stdout
    check("runs twice" in text and "--restored" in text, "the site list for people:", text)
    had = len(copy.receipts)
    copy.start()  # what has all of them is let in
    federation.until("contributions of the copy", lambda: received(copy) >= had + 2, 60 * SLOWDOWN)
    equal(copy.end(20), 0, "exit code of the copy")
    had = len(first.receipts)
    first.arguments.append("--restored")  # there is no copy any more, says a person
    first.start()
    federation.until("contributions of the first", lambda: received(first) >= had + 2,
                     60 * SLOWDOWN)
    equal(first.end(20), 0, "exit code of the first")
    first.arguments.remove("--restored")
    had = len(first.receipts)
    first.start()
    federation.sites["one"] = first
    federation.until("contributions of the first", lambda: received(first) >= had + 2,
                     60 * SLOWDOWN)
    prove(federation)


@test
def a_site_that_is_killed_and_started_again_is_no_copy(directory):
    federation = Federation(PROGRAMS, directory, manifest(sites=1))
    federation.start_coordinator()
    site = federation.add_site("one", *PACED)
    for _ in range(3):
        had = len(site.receipts)
        federation.until("contributions", lambda: len(site.receipts) >= had + 2, 30 * SLOWDOWN)
        site.kill()
        site.start()
    had = len(site.receipts)
    federation.until("contributions", lambda: len(site.receipts) >= had + 2, 30 * SLOWDOWN)
    equal(listed(federation, "one")["copies_cut"], 0, "copies")
    check(" site_runs_twice " not in federation.coordinator.text(), "nobody is accused")
    site.kill()
    time.sleep(6)  # a status is silent after 5 s
    status = json.loads(federation.call("atoll-node", "status", "--dir", site.directory).stdout)
    equal(status["state"], "gone", "state of a killed site")
    check("is not running" in status["message"], status["message"])
    had = len(site.receipts)
    site.start()
    federation.until("contributions", lambda: len(site.receipts) >= had + 2, 30 * SLOWDOWN)
    prove(federation)


@test
def a_fast_site_that_left_holds_nobody_back(directory):
    federation = Federation(PROGRAMS, directory,
                            manifest(sites=2, inner_steps=16, merge__away_after="3s"))
    federation.start_coordinator()
    slow = federation.add_site("slow", "--pace", "40ms")
    fast = federation.add_site("fast", "--pace", "4ms")

    def told(site):
        found = re.findall(r" round_ended .* steps=(\d+)", site.text())
        return int(found[-1]) if found else 0

    federation.until("fewer steps for the slow one", lambda: 0 < told(slow) <= 8, 60 * SLOWDOWN)
    del federation.sites["fast"]
    equal(fast.end(20), 0, "exit code of the fast site")
    federation.until("all steps for it again", lambda: told(slow) >= 16, 60 * SLOWDOWN)
    prove(federation)


def give_its_number_to_another_process(site):
    """As it happens after a restart of the machine, or of a container, whose processes are few."""
    path = os.path.join(site.directory, "status.json")
    with open(path) as file:
        status = json.load(file)
    with open(path, "w") as file:
        json.dump({**status, "pid": os.getpid()}, file)


@test
def a_site_that_leaves_is_waited_for_no_more_and_counts_again_when_it_comes_back(directory):
    federation = Federation(PROGRAMS, directory,
                            manifest(sites=2, merge__quorum=2, merge__grace="forever",
                                     merge__away_after="5s"))
    federation.start_coordinator()
    one, two = [federation.add_site(name, *PACED) for name in ("one", "two")]

    def moves():
        had = federation.status()["version"]
        federation.until("versions", lambda: federation.status()["version"] >= had + 3,
                         60 * SLOWDOWN)

    def counts(standing):
        federation.until(standing, lambda: listed(federation, "two")["presence"] == standing,
                         60 * SLOWDOWN)

    federation.until("contributions", lambda: len(one.receipts) >= 2 and len(two.receipts) >= 2,
                     60 * SLOWDOWN)
    refused = federation.ctl("run", "set", "merge.quorom", "3", "--reason", "three", check=False)
    check("did you mean merge.quorum" in refused.stderr, refused.stderr)
    federation.ctl("run", "set", "merge.quorum", "3", "--reason", "more sites are to come")
    rules = json.loads(federation.ctl("run", "rules").stdout)["rules"]
    check("merge.quorum: 3\n" in rules, "what holds now")
    check("merge.quorum: 3 (more sites are to come)" in rules, "when and why", rules)
    moves()  # never more than there are sites
    del federation.sites["two"]  # it comes and goes
    federation.call("atoll-node", "leave", "--dir", two.directory, seconds=60 * SLOWDOWN)
    equal(two.handle.wait(20), 0, "exit code of the site that left")
    equal(listed(federation, "two")["presence"], "left", "in the site list")
    equal(federation.status()["sites_present"], 1, "sites present")
    moves()  # the quorum of two is one now
    two.start()
    counts("present")
    moves()
    two.kill()
    counts("away")  # nobody told the coordinator
    moves()
    give_its_number_to_another_process(two)
    federation.call("atoll-node", "leave", "--dir", two.directory, seconds=60 * SLOWDOWN)
    equal(listed(federation, "two")["presence"], "left", "of a site that was down")
    text = federation.call("atollctl", "ledger", "list", "--dir", federation.run).stdout
    kinds = [line.split()[1] for line in text.splitlines()]
    equal([k for k in kinds if k in ("site_away", "site_back", "site_left")][:3],
          ["site_left", "site_back", "site_away"], "entries")
    prove(federation)



@test
def an_emptied_directory_that_is_killed_on_its_way_back_is_no_copy(directory):
    federation = Federation(PROGRAMS, directory, manifest(sites=2, merge__quorum=1))
    federation.start_coordinator()
    one, two = [federation.add_site(name, "--throttle", "8") for name in ("one", "two")]
    federation.until("a long ledger", lambda: len(one.receipts) >= 40 and len(two.receipts) >= 40,
                     60 * SLOWDOWN)
    one.kill()
    for folder in ("journal", "payloads", "state"):
        shutil.rmtree(os.path.join(one.directory, folder))
    for moment in range(12):
        begun = one.text().count(" started ")
        one.start()
        federation.until("it works", lambda: one.text().count(" started ") > begun, 60 * SLOWDOWN)
        time.sleep(0.02 * moment)
        one.kill()
    had = len(one.receipts)
    one.start()
    federation.until("contributions", lambda: len(one.receipts) >= had + 2, 60 * SLOWDOWN)
    check(not os.path.exists(os.path.join(one.directory, "restored")), "it is over then")
    prove(federation)


@test
def who_comes_back_to_a_run_that_is_over_says_the_root_of_its_model(directory):
    """No step follows what it restores or fetches."""
    federation = Federation(PROGRAMS, directory,
                            manifest(mode="dense", sites=2, codec__kind="fp32"))
    federation.start_coordinator()
    one, two = [federation.add_site(name, "--throttle", "8") for name in ("one", "two")]
    federation.until("a long ledger", lambda: len(one.receipts) >= 10 and len(two.receipts) >= 10,
                     60 * SLOWDOWN)
    federation.ctl("run", "stop", "--reason", "it is over")
    for site in (one, two):
        equal(site.wait(60 * SLOWDOWN), 0, "exit code")
    federation.ctl("run", "snapshot")
    written = f"version={federation.status()['version']} took_ms="
    federation.until("the snapshot", lambda: written in federation.coordinator.text(),
                     60 * SLOWDOWN, alive=False)
    os.remove(os.path.join(one.directory, "status.json"))
    for folder in ("journal", "payloads", "state", "status.json"):
        path = os.path.join(two.directory, folder)
        (shutil.rmtree if os.path.isdir(path) else os.remove)(path)
    for site in (one, two):
        site.start()
        equal(site.wait(60 * SLOWDOWN), 0, "exit code of who comes back")
    check("snapshot_loaded" in two.text(), "it fetched the model")
    equal(federation.coordinator.end(60), 0, "exit code of the coordinator")
    equal(federation.audit(), [], "the audit")


@test
def who_joins_after_a_rule_and_a_restart_trains(directory):
    """A joiner is given the manifest as the run began with it, which its ledger must show; rules
    come to it as entries."""
    federation = Federation(PROGRAMS, directory, manifest())
    federation.start_coordinator()
    one = federation.add_site("one", "--heartbeat-interval", "1s")
    federation.until("contributions", lambda: len(one.receipts) >= 1, 60 * SLOWDOWN)
    federation.ctl("run", "set", "merge.quorum", "2", "--reason", "another comes")
    federation.ctl("run", "set", "inner.inner_steps", "7", "--reason", "shorter")
    equal(federation.coordinator.end(60 * SLOWDOWN), 0, "the coordinator's exit code")
    federation.start_coordinator()
    two = federation.add_site("two", "--heartbeat-interval", "1s")
    federation.until("the newcomer's contributions", lambda: len(two.receipts) >= 2, 60 * SLOWDOWN)
    prove(federation)


if __name__ == "__main__":
    sys.exit(main())
