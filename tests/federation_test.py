#!/usr/bin/env python3
"""End-to-end tests of the product: real processes, loopback, tiny models, faults of every kind.

    ATOLL_BIN=build/release/bin tests/federation_test.sh [PATTERN ...]

Each test is a function whose name is a sentence; it runs in a process of its own, under a deadline,
three at a time.
"""
import fnmatch
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from federation_harness import ROOT, Failure, Federation, manifest  # noqa: E402

PROGRAMS = os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build", "release", "bin")
SLOWDOWN = float(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)
DEADLINE = 60 * SLOWDOWN
FAST, SLOW = ["--throttle", "8", "--checkpoint-interval", "1s"], ["--throttle", "40",
                                                                  "--checkpoint-interval", "1s"]
TESTS = {}


def test(function):
    TESTS[function.__name__] = function
    return function


def check(condition, *what):
    if not condition:
        raise Failure(" ".join(str(w) for w in what) or "it does not hold")


def equal(got, wanted, what=""):
    check(got == wanted, f"{what}: got {got!r}, not {wanted!r}")


def contains(text, part):
    check(part in text, f"{part!r} is not in: {text[-600:]}")


def prove(federation, **how):
    """Stops the run; everything must hold."""
    codes = federation.stop_run()
    equal({name: code for name, code in codes.items() if code != 0}, {}, "exit codes")
    wrong = federation.audit(**how)
    check(not wrong, "; ".join(wrong))


def start(directory, sites=2, settings=FAST, **manifest_keys):
    federation = Federation(PROGRAMS, directory, manifest(**manifest_keys))
    federation.start_coordinator()
    for name in ("one", "two", "three")[:sites]:
        federation.add_site(name, *settings)
    return federation


def trains(federation, versions=5, seconds=20):
    aim = federation.version() + versions
    federation.until(f"version {aim}", lambda: federation.version() >= aim, seconds * SLOWDOWN)


# ---- the good days -----------------------------------------------------------------------------


@test
def two_sites_train_and_agree(directory):
    federation = start(directory)
    federation.until("receipts of both",
                     lambda: all(len(s.receipts) >= 5 for s in federation.sites.values()),
                     20 * SLOWDOWN)
    prove(federation)
    equal({e["site"] for e in federation.contributions}, {1, 2}, "sites in the ledger")
    for site in federation.sites.values():
        equal(site.status()["state"], "finished", "state")
        check(os.path.exists(os.path.join(site.directory, "export", "model.safetensors")),
              "no export")
    check(federation.receipts >= 10, "receipts", federation.receipts)
    federation.sites["one"].receipts.append((0, 10**6))  # and the audit can fail
    check("not in the ledger" in str(federation.audit()), "the audit does not miss a contribution")


@test
def a_site_that_joins_late_replays_and_contributes(directory):
    federation = start(directory, sites=1)
    trains(federation, 21)
    late = federation.add_site("late", *FAST)
    federation.until("receipts of the late one", lambda: len(late.receipts) >= 3, 20 * SLOWDOWN)
    prove(federation)
    first = min(e["base_version"] for e in federation.contributions if e["site"] == 2)
    check(first >= 20, "the late site started from version", first)


@test
def a_late_site_fetches_a_snapshot_where_that_is_fewer_bytes(directory):
    federation = Federation(PROGRAMS, directory, manifest(mode="dense", sites=2, codec__kind="fp32",
                                                          snapshot_interval=5))
    federation.start_coordinator()
    federation.add_site("one", *FAST)
    trains(federation, 30)
    federation.until("a snapshot", lambda: " snapshot_written " in federation.coordinator.text(),
                     10 * SLOWDOWN)
    late = federation.add_site("late", *FAST)
    federation.until("receipts of the late one", lambda: len(late.receipts) >= 3, 20 * SLOWDOWN)
    contains(late.text(), " snapshot_loaded ")
    late.kill()  # what a snapshot skipped must not be missed by a restart either
    late.start()
    had = len(late.receipts)
    federation.until("receipts after the restart", lambda: len(late.receipts) >= had + 2,
                     20 * SLOWDOWN)
    prove(federation)


@test
def with_overlap_off_and_quorum_k_every_step_has_k_contributions(directory):
    text = manifest(mode="dense", sites=3, codec__kind="fp32", merge__quorum=3,
                    merge__grace="forever")
    federation = Federation(PROGRAMS, directory, text)
    federation.start_coordinator()
    for name in ("one", "two", "three"):
        federation.add_site(name, "--overlap=false", *FAST, start=False)
    for site in federation.sites.values():
        site.start()
    trains(federation, 8)
    federation.ctl("run", "pause")
    federation.until("stillness", lambda: all(s.status().get("phase") == "paused"
                                              for s in federation.sites.values()), 10 * SLOWDOWN)
    equal({site.end(10 * SLOWDOWN) for site in federation.sites.values()}, {0}, "exit codes")
    equal(federation.coordinator.end(10 * SLOWDOWN), 0, "the coordinator's exit code")
    entries = federation.ledger()
    steps = [e for e in entries if e["kind"] == "step"]
    equal({len(e["parts"]) for e in steps}, {3}, "contributions in a step")
    base = {e["index"]: (e["base_version"], e["site"]) for e in entries
            if e["kind"] == "contribution"}
    for step in steps:  # nobody is stale, and everybody is there
        equal(sorted(base[p["index"]] for p in step["parts"]),
              [(step["version"] - 1, site) for site in (1, 2, 3)], "parts")
    check(federation.verify()["verified"], "the ledger does not verify")


# ---- the admin ---------------------------------------------------------------------------------


def held_out(directory):
    """Two texts that no site trains on."""
    names = []
    for folder in ("sim", "codec"):
        text = "".join(open(name, errors="replace").read()
                       for name in sorted(glob.glob(os.path.join(ROOT, folder, "*.c"))))
        names.append(os.path.join(directory, folder + ".txt"))
        with open(names[-1], "w") as file:
            file.write(text[:40000])
    return names


def evaluations(federation):
    try:
        with open(os.path.join(federation.run, "evaluations.jsonl")) as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


@test
def versions_are_evaluated_and_the_best_one_is_exported(directory):
    # snapshots of the newest versions alone: the best one is read by replay
    federation = Federation(PROGRAMS, directory, manifest(snapshot_interval=4))
    texts = held_out(directory)
    options = ["--heldout-windows", "16", "--heldout", texts[0], "--heldout", texts[1],
               "--snapshots", "1"]
    federation.start_coordinator(*options)
    for name in ("one", "two"):
        federation.add_site(name, *FAST)
    federation.until("evaluations", lambda: len(evaluations(federation)) >= 6, 30 * SLOWDOWN)
    federation.coordinator.kill()  # what was measured is known after a restart
    federation.start_coordinator()
    trains(federation, 9)
    codes = federation.stop_run()
    equal({name: code for name, code in codes.items() if code != 0}, {}, "exit codes")
    lines = evaluations(federation)
    check(len({line["version"] for line in lines}) == len(lines), "a version came twice")
    for line in lines:
        equal(set(line["texts"]), {"sim", "codec"}, "texts")
        check(abs(sum(line["texts"].values()) / 2 - line["loss"]) < 1e-9, "the mean", line)
    best = min(lines, key=lambda line: line["loss"])
    check(best["loss"] < lines[0]["loss"] - 0.1, "it did not learn", lines[0], best)
    for version in ("best", str(lines[len(lines) // 2]["version"])):
        wanted = best if version == "best" else lines[len(lines) // 2]
        output = os.path.join(directory, "export-" + version)
        done = federation.ctl("model", "export", "--dir", federation.run, "--output", output,
                              "--at", version)
        contains(done.stdout, f"version {wanted['version']}")
        for name, path in zip(("sim", "codec"), texts):
            told = federation.call("atoll-trainer", "eval", output, path, "--heldout", "1",
                                   "--length", "32", "--evaluate-windows", "16").stdout
            loss = float(re.search(r"[0-9]+\.[0-9]+", told)[0])
            check(abs(loss - wanted["texts"][name]) < 1e-4, name, told, wanted)
    done = federation.ctl("model", "export", "--dir", federation.run, "--output",
                          os.path.join(directory, "no"), "--at", "99999", check=False)
    check(done.returncode != 0, "a version that is not there is exported")
    contains(done.stderr, "there is no version 99999: the newest is")


@test
def a_rise_of_the_held_out_loss_is_said_and_the_best_version_stays(directory):
    text = manifest(inner_steps=3).replace("learning_rate: 1e-3", "learning_rate: 3")
    federation = Federation(PROGRAMS, directory, text)
    texts = held_out(directory)
    federation.start_coordinator("--heldout-windows", "4", "--heldout", texts[0])
    federation.until("version 0", lambda: len(evaluations(federation)) >= 1, 20 * SLOWDOWN)
    check(not federation.status()["heldout"]["rises"], "it rises at once")
    for name in ("one", "two"):
        federation.add_site(name, *FAST)
    federation.until("the alarm", lambda: " heldout_rises " in federation.coordinator.text(),
                     30 * SLOWDOWN, alive=False)
    heldout = federation.status()["heldout"]
    check(heldout["rises"], "the status does not say it", heldout)
    check(heldout["best_loss"] + 0.1 < heldout["loss"], heldout)
    federation.coordinator.end(10 * SLOWDOWN)
    output = os.path.join(directory, "best")
    contains(federation.ctl("model", "export", "--dir", federation.run, "--output", output,
                            "--at", "best").stdout, f"version {heldout['best_version']}")


def listed(federation):
    return {site["name"]: site for site in json.loads(federation.ctl("site", "list").stdout)}


@test
def an_observer_follows_and_evaluates_and_counts_for_nothing(directory):
    # all that count are the quorum, for ever: were the observer counted, no step would be made
    federation = Federation(PROGRAMS, directory,
                            manifest(merge__quorum=3, merge__grace="forever",
                                     merge__away_after="never"))
    texts = held_out(directory)
    federation.start_coordinator()
    observer = federation.add_site("watch", "--data", texts[1], "--heldout", "100%",
                                   data=texts[0], role="observer")
    for name in ("one", "two"):
        federation.add_site(name, *FAST)
    federation.until("an evaluation at the coordinator", lambda: federation.version() >= 6 and
                     (listed(federation)["watch"]["heldout"] or {"version": 0})["version"] >= 6,
                     40 * SLOWDOWN)
    run, sites = federation.status(), listed(federation)
    equal((run["sites_present"], run["sites_active"], run["sites_connected"]), (2, 2, 2), "K")
    equal(sites["watch"]["role"], "observer", "role")
    equal(sites["one"]["role"], "site", "role")
    equal((sites["watch"]["contributions"], sites["watch"]["tokens"]), (0, 0), "of the observer")
    check(sites["one"]["heldout"] is None, "a site that trains tells a held-out loss")
    equal([i["role"] for i in json.loads(federation.ctl("site", "invitations").stdout)],
          ["observer", "site", "site"], "invitations")
    observer.kill()  # what it measured is known after a restart, and none comes twice
    observer.start()
    before = observer.version
    federation.until("it goes on", lambda: observer.version >= before + 4, 40 * SLOWDOWN)
    codes = federation.stop_run()
    equal({name: code for name, code in codes.items() if code != 0}, {}, "exit codes")
    equal(federation.audit(), [], "the audit")
    for entry in federation.ledger():
        check(entry["kind"] != "contribution" or entry["site"] != 1, "it contributed", entry)
    with open(os.path.join(observer.directory, "evaluations.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    check(len({line["version"] for line in lines}) == len(lines), "a version came twice")
    equal(set(lines[-1]["texts"]), {"sim", "codec"}, "texts")
    check(lines[-1]["loss"] < lines[0]["loss"] - 0.1, "it did not learn", lines[0], lines[-1])
    contains(federation.coordinator.text(), " heldout observer=watch ")


@test
def another_inner_rate_holds_for_the_next_steps_and_after_a_restart(directory):
    federation = Federation(PROGRAMS, directory, manifest())
    federation.start_coordinator()
    site = federation.add_site("one", *FAST)

    def has_rate(wanted):
        federation.until(f"a rate of {wanted}", lambda: abs(
            (site.status().get("learning_rate") or 0) - wanted) < 1e-8, 20 * SLOWDOWN)
    has_rate(1e-3)
    federation.ctl("run", "set", "inner.learning_rate", "0.0005", "--reason", "it swings")
    has_rate(5e-4)
    site.kill()
    site.start()
    trains(federation, 2)
    has_rate(5e-4)
    codes = federation.stop_run()
    equal({name: code for name, code in codes.items() if code != 0}, {}, "exit codes")
    equal(federation.audit(), [], "the audit")


@test
def another_k_holds_for_messages_with_later_bases_at_running_and_restarted_sites(directory):
    federation = Federation(PROGRAMS, directory, manifest(merge__away_after="never"))
    federation.start_coordinator()
    one, two = (federation.add_site(name, *FAST) for name in ("one", "two"))
    trains(federation, 3)
    two.kill()
    refused = federation.ctl("run", "set", "codec.kind", "int8", "--reason", "?", check=False)
    contains(refused.stderr, "codec.kind")
    federation.ctl("run", "set", "codec.kind", "topk2-128", "--reason", "twice as much")
    aim = federation.version() + 3
    federation.until("steps by the new k", lambda: federation.version() >= aim, 20 * SLOWDOWN,
                     alive=False)
    two.start()  # with what it had encoded by the rule of before
    trains(federation, 4)
    one.kill()
    one.start()
    three = federation.add_site("three", *FAST)  # it joins with the run's first manifest
    for site in (one, two, three):
        so_far = len(site.receipts)
        federation.until("it contributes", lambda: len(site.receipts) >= so_far + 2, 30 * SLOWDOWN)
    codes = federation.stop_run()
    equal({name: code for name, code in codes.items() if code != 0}, {}, "exit codes")
    equal(federation.audit(), [], "the audit")
    entries = federation.ledger()
    at, changed, sizes = 0, None, {site: [] for site in (1, 2, 3)}
    for entry in entries:
        if entry["kind"] == "step":
            at = entry["version"]
        elif entry["kind"] == "rule":
            changed = at
        elif entry["kind"] == "contribution":
            later = changed is not None and entry["base_version"] > changed
            sizes[entry["site"]].append((later, entry["payload_size"]))
    usual = max(size for later, size in sizes[1] if not later)
    for site, all_of_it in sizes.items():
        check(any(later for later, _ in all_of_it), f"site {site} made none by the new k")
        for later, size in all_of_it:
            check((size > 1.4 * usual) == later, f"site {site}: {size} bytes, before {usual}")
    for process in federation.sites.values():
        codes = set(re.findall(r" contribution_refused .*?code=(\w+)", process.text()))
        # what two had made before it was killed may be too old when it is back
        equal(codes - {"duplicate", "stopped", "busy", "rebase"}, set(),
              f"refusals of {process.name}")


@test
def a_held_out_text_that_does_not_fit_is_refused_at_the_start(directory):
    federation = Federation(PROGRAMS, directory, manifest())
    short = os.path.join(directory, "short.txt")
    with open(short, "w") as file:
        file.write("too short")
    try:
        federation.start_coordinator("--heldout", short)
    except Failure as failure:
        contains(str(failure), "less than one sequence of 32 tokens is held out")
        return
    raise Failure("the coordinator starts with a text that is too short")


@test
def a_pause_stops_training_until_the_run_is_resumed(directory):
    federation = start(directory)
    trains(federation)
    federation.ctl("run", "pause", "--reason", "lunch")
    federation.until("stillness", lambda: all(s.status().get("phase") == "paused"
                                              for s in federation.sites.values()), 10 * SLOWDOWN)
    time.sleep(1.5)
    before, steps = federation.status(), [s.status()["trainer_steps"]
                                          for s in federation.sites.values()]
    time.sleep(2)
    equal(federation.status()["version"], before["version"], "version")
    equal([s.status()["trainer_steps"] for s in federation.sites.values()], steps,
          "inner steps in a pause")
    equal(before["phase"], "paused", "phase")
    for words, code in ((("run", "pause"), "conflict"),
                        (("site", "revoke", "--name", "nobody"), "not_found")):
        no = federation.ctl(*words, check=False)
        check(no.returncode != 0 and f"({code})" in no.stderr, words, "is answered", no.stderr)
    contains(federation.ctl("run", "snapshot").stdout, f"version {before['version']}")
    federation.coordinator.kill()  # a pause outlives the process
    federation.start_coordinator()
    equal(federation.status()["phase"], "paused", "phase after a restart")
    federation.ctl("run", "resume")
    trains(federation)
    prove(federation)


@test
def a_revoked_site_halts_and_the_others_go_on(directory):
    federation = start(directory)
    trains(federation)
    federation.ctl("site", "revoke", "--name", "two", "--reason", "the lease is over")
    two = federation.sites["two"]
    federation.until("the end of site two", lambda: not two.alive(), 15 * SLOWDOWN, alive=False)
    equal(two.handle.returncode, 3, "exit code")
    contains(two.text(), "revoked")
    equal(two.status()["state"], "halted", "state")
    two.start()  # it does not come back
    equal(two.wait(15 * SLOWDOWN), 3, "exit code of a second start")
    contains(two.tail(3), "revoked")
    del federation.sites["two"]
    trains(federation)
    prove(federation)
    revoked = next(e["index"] for e in federation.entries if e["kind"] == "site_revoked")
    check(not [e for e in federation.contributions if e["site"] == 2 and e["index"] > revoked],
          "taken after the revocation")


@test
def tokens_that_are_wrong_used_or_expired_are_refused(directory):
    federation = start(directory, sites=0)

    def join(where, token, name="atoll-node"):
        return federation.call(name, "join", f"127.0.0.1:{federation.port}", "--token-file",
                               federation.token_file(token),
                               "--run=false", "--dir", federation.path("sites", where),
                               "--data", federation.path("text.txt"), check=False)

    token = federation.invite("one")["token"]
    equal(join("a", token).returncode, 0, "a good token's exit code")
    equal(join("a", token).returncode, 0, "once more with the same key")
    used = join("b", token)
    equal(used.returncode, 3, "a used token's exit code")
    contains(used.stderr, "used by another key")
    expired = federation.invite("two", "--expires", "2s")["token"]
    time.sleep(2.1)
    late = join("c", expired)
    equal(late.returncode, 3, "an expired token's exit code")
    contains(late.stderr, "has expired")
    # another secret
    unknown = join("d", expired[:14] + ("A" if expired[14] != "A" else "B") + expired[15:])
    equal(unknown.returncode, 3, "an unknown token's exit code")
    contains(unknown.stderr, "does not belong to any invitation")
    cut = join("d", token[:40])
    check(cut.returncode in (1, 2, 3), "a cut token's exit code", cut.returncode)
    contains(cut.stderr, "token")
    check(not os.path.exists(federation.path("sites", "b", "site.json")),
          "a refused site has an identity")


@test
def a_token_of_another_run_is_not_taken(directory):
    federation = start(directory, sites=0)
    other = Federation(PROGRAMS, os.path.join(directory, "other"), manifest(name="other"))
    other.start_coordinator()
    foreign = other.invite("three")["token"]
    other.close()
    wrong = federation.call("atoll-node", "join", f"127.0.0.1:{federation.port}",
                            "--token-file", federation.token_file(foreign), "--run=false", "--dir",
                            federation.path("sites", "e"), check=False, seconds=45 * SLOWDOWN)
    check(wrong.returncode in (1, 3), "exit code", wrong.returncode)
    contains(wrong.stderr, "the invitation does not belong to the coordinator at this address")
    contains(wrong.stderr, "certificate verify failed")
    check(not os.path.exists(federation.path("sites", "e", "site.json")), "it has an identity")


# ---- what is refused before anything starts ----------------------------------------------------


def refused(site, code, *parts, seconds=20):
    """Started, it ends by itself with that code, says why, and has trained nothing."""
    site.read()
    site.lines = []
    site.start()
    got = site.wait(seconds * SLOWDOWN)
    text = site.text()
    check(got in (code if isinstance(code, tuple) else (code,)),
          f"exit code {got}, not {code}: {text[-400:]}")
    for part in parts:
        contains(text, part)
    return text


@test
def a_site_with_bad_data_key_or_manifest_does_not_start(directory):
    federation = start(directory, sites=0)
    site = federation.add_site("one", *FAST, start=False)
    yaml = os.path.join(site.directory, "node.yaml")
    key, plan = os.path.join(site.directory,
                             "node.key"), os.path.join(site.directory, "manifest.yaml")
    with open(yaml) as file:
        settings = file.read()
    for path, content, word in ((federation.path("gone.txt"), None, "gone.txt"),
                                (federation.path("tiny.txt"), b"ab", "tiny.txt"),
                                (federation.path("bad.bin"), b"\x01\x80\xff" * 1000, "bad.bin")):
        if content is not None:
            with open(path, "wb") as file:
                file.write(content)
        with open(yaml, "w") as file:
            file.write(settings.replace(federation.path("text.txt"), path))
        refused(site, (1, 2, 3), word)
    with open(yaml, "w") as file:
        file.write(settings)
    os.chmod(key, 0o644)
    refused(site, (1, 2, 3), "node.key")
    os.chmod(key, 0o600)
    with open(plan) as file:
        good = file.read()
    with open(plan, "w") as file:
        file.write(good.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    check(open(plan).read() != good, "the manifest's text has changed; the test must too")
    refused(site, (1, 3), "manifest")
    with open(plan, "w") as file:
        file.write(good)
    site.start()
    federation.until("receipts", lambda: len(site.receipts) >= 2, 20 * SLOWDOWN)
    equal(site.end(10 * SLOWDOWN), 0, "exit code")
    with open(plan, "w") as file:  # and once it has a ledger
        file.write(good.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    refused(site, (1, 3), "manifest")
    with open(plan, "w") as file:
        file.write(good)
    site.start()
    trains(federation)
    prove(federation)


@test
def what_is_in_use_or_missing_is_refused_clearly(directory):
    federation = start(directory, sites=1)
    trains(federation, 2)

    def coordinator(where, port):
        return federation.call("atoll-coordinator", "--dir", where, "--listen", f"127.0.0.1:{port}",
                               check=False, seconds=20)

    second = coordinator(federation.run, 0)
    equal(second.returncode, 1, "a second coordinator's exit code")
    contains(second.stderr, "only one may write")
    missing = coordinator(federation.path("nothing"), 0)
    equal(missing.returncode, 1, "exit code without a directory")
    contains(missing.stderr, "nothing")
    other = Federation(PROGRAMS, os.path.join(directory, "other"), manifest(name="other"))
    taken = coordinator(other.run, federation.port)
    equal(taken.returncode, 1, "exit code of a taken port")
    contains(taken.stderr, str(federation.port))
    again = federation.call("atollctl", "run", "create", federation.run,
                            "--manifest", federation.path("manifest.yaml"), check=False)
    check(again.returncode != 0, "a run was made over another")
    one = federation.sites["one"]
    beside = federation.call("atoll-node", "run", "--dir", one.directory, check=False)
    check(beside.returncode != 0, "two nodes run from one directory")
    contains(beside.stderr, "only one may write")
    nowhere = federation.call("atoll-node", "run", "--dir", federation.path("nothing"), check=False)
    equal(nowhere.returncode, 1, "exit code without a site's directory")
    contains(nowhere.stderr, "atoll-node join")
    trains(federation, 3)  # nobody was disturbed
    prove(federation)


# ---- the bad days ------------------------------------------------------------------------------


@test
def sigterm_ends_everybody_and_a_restart_goes_on(directory):
    federation = start(directory)
    trains(federation)
    equal([s.end(60 * SLOWDOWN) for s in federation.sites.values()], [0, 0], "exit codes")
    equal(federation.coordinator.end(60 * SLOWDOWN), 0, "the coordinator's exit code")
    steps = {name: s.status()["trainer_steps"] for name, s in federation.sites.items()}
    version = federation.version()
    federation.start_coordinator()
    for site in federation.sites.values():
        site.start()
    trains(federation)
    for name, site in federation.sites.items():
        check(f"trainer_steps={steps[name]}" in site.text(),
              f"{name} did not go on from its {steps[name]} inner steps")
    check(federation.version() > version)
    prove(federation)


@test
def a_site_whose_device_is_lost_saves_its_state_and_ends_to_be_restarted(directory):
    """The device is tests/cuda_emulation, which can be told to fail."""
    library = os.path.join(os.path.dirname(os.path.abspath(PROGRAMS)), "tests",
                           "atoll-kernels-emulated.so")
    if not os.path.exists(library):
        return print(f"  nothing was lost: there is no {library}")
    federation = Federation(PROGRAMS, directory, manifest().replace("hidden: 32", "hidden: 64"))
    federation.start_coordinator()
    federation.add_site("one", "--device", "cpu", *FAST)
    site = federation.add_site("two", "--checkpoint-interval", "1h", "--device", "cuda",
                               "--cuda-library", library, start=False)

    def ends_with(name, value, *parts):
        os.environ[name] = str(value)
        site.start()
        del os.environ[name]
        equal(site.wait(40 * SLOWDOWN), 1, "exit code with " + name)
        for part in parts:
            contains(site.text(), part)

    ends_with("EMULATED_MEMORY", 10**6, "GiB of device memory for a batch of 2 x 32")
    lost = [" training_device_lost ", "run: the device that trains was lost: "]
    ends_with("EMULATED_LOSS", 2000, 'training="cuda" on="emulated on the CPU', *lost)
    equal(site.status()["state"], "broken", "state")
    receipts = len(site.receipts)
    check(receipts, "nothing was done before the device was lost")
    ends_with("EMULATED_TEAR", 65536, *lost)  # in the download of a contribution's parameters
    site.start()
    federation.until("receipts after the restart", lambda: len(site.receipts) > receipts + 2,
                     20 * SLOWDOWN)
    restored = [int(n) for n in re.findall(r" restored .*trainer_steps=(\d+)", site.text())]
    equal(restored[0], 0, "inner steps at the first start")
    check(restored[1] > 0, "the state was not saved as the device was lost")
    equal(restored[2], restored[1], "inner steps that the second loss has left")
    prove(federation)


@test
def while_the_coordinator_is_away_sites_train_on(directory):
    federation = start(directory)  # a site that has not caught up yet would wait for that
    federation.until("receipts of both",
                     lambda: all(len(s.receipts) >= 2 for s in federation.sites.values()),
                     20 * SLOWDOWN)
    equal(federation.coordinator.end(10 * SLOWDOWN), 0, "exit code")
    time.sleep(1.5)
    before = {name: s.status() for name, s in federation.sites.items()}
    time.sleep(3)
    federation.check_alive(federation.sites.values())
    for name, site in federation.sites.items():
        check(site.status()["trainer_steps"] > before[name]["trainer_steps"], name,
              "does not train:", before[name], site.status(), site.tail())
        check(not site.status()["linked"], name, "says that it is linked")
    version = federation.version()
    federation.start_coordinator()
    federation.until("new versions", lambda: federation.version() >= version + 3, 30 * SLOWDOWN)
    prove(federation)


@test
def a_copy_of_the_run_takes_over_with_a_new_epoch(directory):
    """The coordinator's directory is copied to another machine, whose coordinator goes on; the
    first one is no longer believed."""
    federation = start(directory)
    federation.until("receipts of both",
                     lambda: all(len(s.receipts) >= 3 for s in federation.sites.values()),
                     20 * SLOWDOWN)
    equal(federation.coordinator.end(10 * SLOWDOWN), 0, "exit code")
    moved = federation.path("moved")
    shutil.copytree(federation.run, moved)
    first, federation.run = federation.run, moved
    federation.start_coordinator("--new-epoch")
    had = [len(s.receipts) for s in federation.sites.values()]
    federation.until("receipts by the successor",
                     lambda: all(len(s.receipts) >= n + 3
                                 for s, n in zip(federation.sites.values(), had)), 20 * SLOWDOWN)
    # a coordinator of the old epoch comes back in its place: it has less than the sites have seen,
    # and nobody trains for it
    federation.coordinator.options.remove("--new-epoch")
    equal(federation.coordinator.end(10 * SLOWDOWN), 0, "exit code")
    size = len(federation.ledger())
    federation.run = first
    federation.start_coordinator()
    federation.until("the sites' word",
                     lambda: not any(s.alive() for s in federation.sites.values()), 30 * SLOWDOWN,
                     alive=False)
    equal({s.handle.returncode for s in federation.sites.values()}, {3},
          "exit codes of sites that saw a shorter ledger")
    equal(federation.coordinator.end(10 * SLOWDOWN), 0, "exit code")
    federation.run = moved
    federation.start_coordinator()
    for site in federation.sites.values():
        site.start()
    trains(federation)
    prove(federation)
    check(len(federation.entries) > size, "entries", size, len(federation.entries))
    equal([e["epoch"] for e in federation.entries if e["kind"] == "epoch"], [2], "epochs begun")


def crash_rounds(directory, *options):
    done = subprocess.run([os.path.join(ROOT, "scripts", "crash-rounds"), "--programs", PROGRAMS,
                           "--output", directory, "--rounds", "5",
                           "--limit", str(5 * SLOWDOWN), "--give-up", str(20 * SLOWDOWN), *options],
                          capture_output=True, text=True)
    check(done.returncode == 0, done.stdout[-2000:], done.stderr[-500:])


@test
def kill_9_loses_and_doubles_nothing_in_sparse_mode(directory):
    crash_rounds(directory, "--seed", "5", "--fragments", "3")


@test
def kill_9_loses_and_doubles_nothing_in_dense_mode(directory):
    crash_rounds(directory, "--seed", "6", "--mode", "dense")


def flip(path, count=3):
    """Some bytes of a file are other ones."""
    with open(path, "r+b") as file:
        size = os.path.getsize(path)
        for at in [size * (2 * i + 1) // (2 * count) for i in range(count)]:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x55]))


def damaged(directory, folder, damage, mode="sparse", stops=True):
    """A site is killed, files of a folder of it are damaged, and it is started: it recovers, or it
    stops, says so, and comes back once its copies are deleted."""
    federation = start(directory, settings=FAST, mode=mode)
    one = federation.sites["one"]
    federation.until("a checkpoint", lambda: " checkpoint_written " in one.text(), 20 * SLOWDOWN)
    trains(federation, 5)
    one.kill()
    while not files_in(one.directory, folder):  # payloads go as soon as a checkpoint covers them
        one.start()
        trains(federation, 1)
        one.kill()
    one.read()
    one.lines = []
    damage(files_in(one.directory, folder))
    one.start()
    had = len(one.receipts)
    others = [federation.coordinator, federation.sites["two"]]
    federation.until("a word from the damaged site", lambda: not one.alive() or
                     len(one.receipts) >= had + 3, 20 * SLOWDOWN, alive=False)
    federation.check_alive(others)
    check(stops or one.alive(), "the site stopped: " + one.tail(4))
    if not one.alive():
        equal(len(one.receipts), had, "contributions of a damaged site")
        equal(one.handle.returncode, 3, "exit code: " + one.tail(4))
        contains(one.tail(2), one.directory)
        contains(one.tail(2), "may be deleted")
        for folder in ("journal", "payloads", "state"):
            shutil.rmtree(os.path.join(one.directory, folder))
        one.start()
    federation.until("receipts after that", lambda: len(one.receipts) >= had + 3, 20 * SLOWDOWN)
    prove(federation)


def files_in(directory, folder):
    """Smallest first."""
    found = glob.glob(os.path.join(directory, folder, "**"), recursive=True)
    return sorted((path for path in found if os.path.isfile(path)), key=os.path.getsize)


def flip_each(paths):
    for path in paths:
        flip(path)


@test
def a_site_whose_state_is_damaged_stops_or_recovers(directory):
    damaged(directory, "state", flip_each)


@test
def a_site_whose_checkpoint_is_gone_stops_or_recovers(directory):
    damaged(directory, "state", lambda paths: os.unlink(paths[-1]), mode="dense")


@test
def a_site_whose_payloads_are_damaged_recovers(directory):
    damaged(directory, "payloads", flip_each, stops=False)


@test
def a_site_whose_ledger_is_damaged_stops_or_recovers(directory):
    damaged(directory, "journal",
            lambda paths: [flip(path, 400) for path in paths if path.endswith("data.mdb")])


# ---- a payload that the coordinator's disk has lost --------------------------------------------


def blob_of(federation, entry):
    return os.path.join(federation.run, "blobs", entry["payload"][:2], entry["payload"][2:])


def waiting(federation):
    """Contributions in the ledger that no step has merged."""
    entries = federation.ledger()
    merged = {part["index"] for e in entries if e["kind"] == "step" for part in e["parts"]}
    return [e for e in entries if e["kind"] == "contribution" and e["index"] not in merged]


def stop_with_one_that_waits(federation, one, two):
    """Ends two, until a contribution of one waits: with a quorum of two it then waits for ever.
    It may have been made before two's end, so neither receipts nor entries may be counted here."""
    number = one.status()["site"]
    two.kill()
    federation.until("a contribution of the other one that waits",
                     lambda: {e["site"] for e in waiting(federation)} == {number},
                     20 * SLOWDOWN, alive=False)


def spoil(path):
    os.chmod(path, 0o600)  # blobs are read-only
    flip(path, 1)


@test
def a_flipped_byte_in_a_waiting_payload_is_had_again_and_nothing_is_lost(directory):
    federation = start(directory, mode="dense", merge__quorum=2, merge__grace="forever")
    trains(federation, 2)
    one, two = federation.sites["one"], federation.sites["two"]
    stop_with_one_that_waits(federation, one, two)
    federation.coordinator.kill()
    victims = waiting(federation)
    check(victims, "nothing waits")
    for victim in victims:
        spoil(blob_of(federation, victim))
    federation.start_coordinator()
    two.start()
    trains(federation, 4)
    contains(federation.coordinator.text(), " payload_lost ")
    contains(federation.coordinator.text(), " payload_supplied ")
    equal(federation.status()["waits"], "", "what the coordinator waits for")
    prove(federation)  # every contribution was merged
    check(not [e for e in federation.entries if e["kind"] == "dropped"],
          "a contribution was given up")


@test
def a_payload_that_nobody_has_is_given_up_and_the_run_goes_on(directory):
    federation = Federation(PROGRAMS, directory,
                            manifest(mode="sparse", merge__quorum=2, merge__grace="forever"))
    federation.start_coordinator("--drop-after", "2s")
    for name in ("one", "two"):
        federation.add_site(name, *FAST)
    trains(federation, 2)
    one, two = federation.sites["one"], federation.sites["two"]
    stop_with_one_that_waits(federation, one, two)
    one.kill()
    federation.coordinator.kill()
    victims = waiting(federation)
    for victim in victims:
        spoil(blob_of(federation, victim))
        for site in (one, two):
            path = os.path.join(site.directory, "payloads",
                                os.path.relpath(blob_of(federation, victim), federation.run))
            if os.path.exists(path):
                spoil(path)
    federation.start_coordinator()
    one.start()
    two.start()
    trains(federation, 4)
    codes = federation.stop_run()
    equal(set(codes.values()), {0}, "exit codes")
    entries = federation.ledger()
    equal({e["contribution"] for e in entries if e["kind"] == "dropped"},
          {v["index"] for v in victims}, "what was given up")
    check(federation.verify()["verified"], "the ledger does not verify")
    equal({site.status()["root"] for site in federation.sites.values()},
          {federation.verify()["state_root"]}, "roots")


@test
def without_a_readable_snapshot_the_coordinator_replays_and_has_lost_payloads_again(directory):
    federation = start(directory, settings=["--throttle", "8", "--checkpoint-interval", "1h"],
                       snapshot_interval=3)
    trains(federation, 8)
    federation.until("a snapshot", lambda: " snapshot_written " in federation.coordinator.text(),
                     20 * SLOWDOWN)
    federation.coordinator.kill()
    payloads = [blob_of(federation, e) for e in federation.ledger() if e["kind"] == "contribution"]
    for path in files_in(federation.run, "blobs"):
        if path not in payloads:
            spoil(path)
    last = federation.ledger()
    newest = [e for e in last if e["kind"] == "contribution"][-1]
    spoil(blob_of(federation, newest))  # the newest: a site has it still
    federation.start_coordinator()
    contains(federation.coordinator.text(), " replaying_from_version_0 ")
    trains(federation, 5)
    contains(federation.coordinator.text(), " payload_supplied ")
    prove(federation)


def small_disk(path, megabytes):
    """A disk of its own below path, in this process's own mount namespace (see run_one)."""
    os.makedirs(path, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", path],
                          capture_output=True)
    if done.returncode != 0:
        print("no disk of its own could be mounted here: left out")
        sys.exit(0)


def fill(path):
    """Takes all the space there is; returns the file to delete."""
    filler = os.path.join(path, "filler")
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return filler


def full_disk(directory, which):
    """One disk fills up under a site or the coordinator; space comes back later, and everything
    goes on and holds."""
    federation = Federation(PROGRAMS, directory, manifest(fragments=2, snapshot_interval=10),
                            disks={which: 24}, mount=small_disk)
    federation.start_coordinator()
    # a full coordinator is busy: by default a site would wait up to a minute before it asks again
    for name in ("one", "two"):
        federation.add_site(name, *FAST, "--retry-limit", "2s")
    trains(federation, 5)
    victim = federation.coordinator if which == "run" else federation.sites["one"]
    place = federation.run if which == "run" else victim.directory
    filler = fill(place)
    limit = time.monotonic() + 6 * SLOWDOWN
    while victim.alive() and time.monotonic() < limit:
        time.sleep(0.05)
    victim.read()
    if not victim.alive():
        check(victim.handle.returncode in (1, 3), "exit code", victim.handle.returncode,
              victim.tail())
        contains(victim.tail(15), "No space left")
    else:
        check("No space left" in victim.text(), victim.name, "says nothing of its disk:",
              victim.tail())
    federation.check_alive([p for p in federation.processes() if p is not victim])
    os.unlink(filler)
    if not victim.alive():
        if which == "run":
            federation.start_coordinator()
        else:
            victim.start()
    had = [len(s.receipts) for s in federation.sites.values()]
    federation.until("receipts of all",
                     lambda: all(len(s.receipts) >= n + 3
                                 for s, n in zip(federation.sites.values(), had)), 20 * SLOWDOWN)
    prove(federation)


@test
def a_full_disk_at_a_site_costs_nothing_once_there_is_space(directory):
    full_disk(directory, "sites/one")


@test
def a_full_disk_at_the_coordinator_costs_nothing_once_there_is_space(directory):
    full_disk(directory, "run")


# ---- running them ------------------------------------------------------------------------------


def can_unshare():
    return shutil.which("unshare") and subprocess.run(["unshare", "-rm", "true"],
                                                      capture_output=True).returncode == 0


def run_one(name):
    """In a process of its own, whose whole group ends with it."""
    began = time.monotonic()
    directory = tempfile.mkdtemp(prefix="atoll-federation-")
    own_mounts = ["unshare", "-rm"] if "full_disk" in name and can_unshare() else []
    child = subprocess.Popen(own_mounts + [sys.executable, os.path.abspath(sys.argv[0]),
                                           "--one", name, directory], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors="replace", start_new_session=True)
    try:
        text, _ = child.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        text = f"not over after {DEADLINE:.0f} s"
        child.returncode = 124
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if child.returncode == 0 or not os.environ.get("ATOLL_TEST_KEEP"):
        shutil.rmtree(directory, ignore_errors=True)
    return name, child.returncode == 0, text.strip(), time.monotonic() - began


def main():
    if sys.argv[1:2] == ["--one"]:
        try:
            TESTS[sys.argv[2]](sys.argv[3])
        except Failure as failure:
            print(failure)
            return 1
        return 0
    names = [n for n in TESTS if not sys.argv[1:] or
             any(fnmatch.fnmatch(n, p) for p in sys.argv[1:])]
    passed = 0
    with ThreadPoolExecutor(3) as pool:
        for name, held, text, seconds in pool.map(run_one, names):
            passed += held
            print(f"{'ok  ' if held else 'FAIL'} {1000 * seconds:6.0f} ms {name}" +
                  (f": {text}" if text else ""), flush=True)
    print(f"{passed} passed, {len(names) - passed} failed")
    return passed != len(names)


if __name__ == "__main__":
    sys.exit(main())
