"""Strangers and members that occupy what they can: the admin and the honest are served all the
while, as they are without an attack (the control).

What is asserted is that every order and every contribution is answered, within a limit that a busy
machine keeps. How long they took is printed. ATOLL_TEST_ABUSE_SECONDS is how long each attack goes
on.
"""
import itertools
import json
import os
import subprocess
import sys
import threading
import time

try:
    import grpc
except ImportError:  # the tests are skipped
    grpc = None

import harness
from harness import HERE, SECONDS, Run, main, noise, submit

ATTACK_S = float(os.environ.get("ATOLL_TEST_ABUSE_SECONDS") or 2)


class Attack:
    """Attackers in processes of their own; they are there when the block begins."""

    def __init__(self, *attackers):
        self.attackers, self.processes = attackers, []

    def __enter__(self):
        for arguments in self.attackers:
            self.processes.append(subprocess.Popen(
                [sys.executable, os.path.join(HERE, "attacker.py"), *map(str, arguments)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for one in self.processes:
            assert one.stdout.readline().strip() == "there", "an attacker did not come far"
        return self

    def __exit__(self, *_):
        for one in self.processes:
            one.stdin.close()
            said = one.stdout.read()
            one.wait()
            print("    attacker:", said.strip())


class Honest:
    """An admin and a site, each with a new connection now and then."""

    def __init__(self, run, fragments=1):
        import atoll_client
        self.client, self.run, self.fragments = atoll_client, run, fragments
        self.site = run.join("honest")
        self.follower = run.follow(self.site)
        self.slowest, self.count, self.names = {}, 0, itertools.count()
        self.joins_again = 0

    def timed(self, what, call):
        begun = time.monotonic()
        done = call()
        took = time.monotonic() - begun
        self.slowest[what] = max(took, self.slowest.get(what, 0))
        return done

    def contribute(self):
        fragment = self.count % self.fragments
        self.count += 1
        message, norm = noise(self.follower.ledger, fragment, self.count)
        with self.client.Connection.of(self.run.address, self.site) as connection:
            receipt = self.timed("contribution", lambda: self.client.submit(
                connection, self.site, self.follower.ledger, message, norm, fragment=fragment,
                instance=self.follower.instance, timeout=SECONDS))
        self.follower.wait(lambda ledger: receipt.index in ledger.merged, SECONDS)

    def order(self):
        """A new connection: invites somebody and revokes the one before."""
        name = f"other-{next(self.names)}"
        with self.client.Connection.of_admin(self.run.address, self.run.keys) as connection:
            token = self.timed("invite", lambda: self.client.invite(
                connection, name, self.run.read("ca.pem"))).token
        other = self.timed("join", lambda: self.join(token))
        with self.client.Connection.of_admin(self.run.address, self.run.keys) as connection:
            self.timed("revoke", lambda: self.client.admin(
                connection, "revoke", SECONDS, site_name=name, reason="no longer needed"))
        assert other.number > 0

    def join(self, token):
        """As a newcomer does among too many strangers: again (docs/protocol.md), with the same key,
        as the call before may have enrolled it and its answer been lost."""
        from atoll_client import identity
        limit, key = time.monotonic() + SECONDS, identity.new_key()
        while True:
            try:
                return self.client.join(self.run.address, token, key, timeout=SECONDS)
            except grpc.RpcError as error:
                later = error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED,
                                         grpc.StatusCode.UNAVAILABLE)
                if not later or time.monotonic() > limit:
                    raise
            except self.client.Refused as refused:  # the call before is still being written down
                if refused.code != "busy" or time.monotonic() > limit:
                    raise
            self.joins_again += 1

    def work(self, seconds):
        limit, rounds = time.monotonic() + seconds, 0
        while rounds < 3 or time.monotonic() < limit:
            self.contribute()
            self.order()
            rounds += 1
        slowest = " ".join(f"{what} {took:.3f} s" for what, took in self.slowest.items())
        print(f"    {rounds} rounds; the slowest {slowest}; {self.joins_again} joins came again",
              flush=True)
        return rounds


def attacked(kinds, **how):
    """kinds: [(KIND, COUNT)]"""
    with Run(**how) as run:
        honest = Honest(run)
        with Attack(*((kind, run.federation.port, count) for kind, count in kinds)):
            honest.work(ATTACK_S)


def hoarder(run, name, fragments, streams):
    """A site that begins an upload of each fragment and sends none of it, and lets so many streams
    come that it does not read; the attackers to be."""
    import atoll_client
    from atoll_client import messages as m, signed
    site = run.join(name)
    follower = atoll_client.Follower(run.address, site)
    follower.catch_up(seconds=SECONDS)
    follower.close()
    uploads = []
    for fragment in range(fragments):
        message, norm = noise(follower.ledger, fragment, fragment)
        header = atoll_client.contribution(site, follower.ledger, message, norm,
                                           fragment=fragment).pack()
        signature = signed.sign(site.key, signed.CONTRIBUTION_TAG, header)
        uploads.append(("Submit", m.frame(m.SUBMIT_FRAME.encode(open=dict(
            protocol=1, header=header, signature=signature, instance=follower.instance))), False))
    unread = [("Follow", m.frame(m.FOLLOW_REQUEST.encode(
        protocol=1, from_index=0, payloads_from_index=0, instance=follower.instance)), True),
        ("Snapshot", m.frame(m.SNAPSHOT_REQUEST.encode(protocol=1, version=0)), True)]
    files = [os.path.abspath(f"{name}.{kind}") for kind in ("pem", "key", "uploads", "streams")]
    contents = [site.certificate_pem, site.key_pem]
    for calls in uploads, unread * (streams // 2):
        contents.append(json.dumps([(method, sent.hex(), over)
                                    for method, sent, over in calls]).encode())
    for file, content in zip(files, contents):
        harness.write(file, content)
    certificate, key, *calls = files
    return [("calls", run.federation.port, 1, certificate, key, file) for file in calls]


def test_four_hoarding_sites_and_256_descriptors_lock_nobody_out():
    with Run(descriptors=256, large=True, fragments=64) as run:
        attackers = [one for i in range(4) for one in hoarder(run, f"hoarder-{i}", 64, 100)]
        honest = Honest(run, 64)
        with Attack(*attackers):
            honest.work(ATTACK_S)
        # With 32 places for strangers, from the honest ones' own address it would be a lottery.
        strangers = [(f"{kind}@127.0.0.2", run.federation.port, count)
                     for kind, count in (("idle", 150), ("raw", 150), ("joins", 33))]
        with Attack(*attackers, *strangers):
            honest.work(ATTACK_S)


def test_without_an_attack_everybody_is_served():
    attacked([])


def test_4224_half_made_joins_on_33_connections_lock_nobody_out():
    attacked([("joins", 33)], coordinator=["--connections", "512"])


def test_a_cap_of_512_connections_held_by_idle_strangers_locks_nobody_out():
    attacked([("idle", 560)], coordinator=["--connections", "512"])


def test_connections_that_say_nothing_lock_nobody_out():
    attacked([("raw", 600)], coordinator=["--connections", "512"])


def test_a_site_that_contributes_as_often_as_it_can_makes_nobody_stale():
    import atoll_client
    with Run(merge__staleness_cap=16) as run:
        sites = [run.join(name) for name in ("one", "two", "flood")]
        followers = [run.follow(site) for site in sites]
        for follower in followers:
            atoll_client.heartbeat(follower.connection, follower.ledger,
                                   instance=follower.instance)
        made, over = [0, 0], threading.Event()

        def flood():
            seed = 1000
            while not over.is_set():
                try:
                    receipt = submit(followers[2], seed=seed, patient=False)
                    made[0] += 1
                    followers[2].wait(lambda ledger: len(ledger) > receipt.index, SECONDS)
                    seed += 1
                except atoll_client.Refused:
                    made[1] += 1
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            # a second of work each, from the newest version, and more where the flood is slow: a
            # round has twenty tries of it, of which at most eight may be let in
            for seed in range(5):
                bases = [follower.ledger.version for follower in followers[:2]]
                tries, until = sum(made), time.monotonic() + SECONDS
                time.sleep(1)
                while sum(made) < tries + 20 and time.monotonic() < until:
                    time.sleep(0.05)
                for follower, base in zip(followers, bases):
                    submit(follower, seed=seed, patient=False, base_version=base)
        finally:
            over.set()
            thread.join()
        print(f"    the flood: {made[0]} accepted, {made[1]} refused; the others: 10 of 10")
        assert made[0] > 1 and made[1] > made[0]


if __name__ == "__main__":
    main(globals())
