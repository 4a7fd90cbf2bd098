"""A member that floods over a link of 200 ms, with what cannot be: three honest sites train beside
it, and the same three in a run without it, until as many of their tokens were merged.

The hostile one is a process of its own. Over four connections, in 32 threads, it offers
contributions, a hundred a second and more where the machine lets it: tokens of 2^50, norms of 0,
about 1e-30 and 8e18, which are taken as often as the rate of a site allows; norms of NaN, tokens
and sequences that cannot be, which are not; and heartbeats of 9e11. The run stays active with its
H, and the honest are hardly scaled down.

ATOLL_TEST_FLOOD_TOKENS is how far they train. From LONG on the model's loss on text that nobody
trained on is also held against the control's: within 2 %. A shorter run is too early for that; its
losses are printed.
"""
import json
import os
import re
import subprocess
import sys
import threading
import time

from harness import PROGRAMS, ROOT, SECONDS, Run, main, noise, write

TOKENS = int(os.environ.get("ATOLL_TEST_FLOOD_TOKENS") or 500_000)
LONG = 8_000_000
MOST, STEPS, H, THREADS = 1 << 50, (1 << 32) - 1, 15, 32
HONEST = ("a", "b", "c")
# what is told, and how large the noise is: what is taken, by one connection, as two would only cut
# each other off, and what is not, by the others
TAKEN = ((dict(tokens=MOST, inner_steps=STEPS), 1e-3), (dict(tokens=1000), 0),
         (dict(tokens=1000), 1e-32), (dict(tokens=1000), 1e17))
REFUSED = ((dict(tokens=1000, norm=float("nan")), 1e-3),
           (dict(tokens=(1 << 26) + 1, inner_steps=1), 1e-3),
           (dict(tokens=1000, sequence=(1 << 64) - 1), 1e-3))
MANIFEST = """name: flood
token_budget: 1000000000
model: {hidden: 64, layers: 2, heads: 2, kv_heads: 2, ffn: 192, context: 64}
inner: {learning_rate: 3e-3, inner_steps: %d}
outer: {mode: sparse}
codec: {kind: topk2-64}
merge: {quorum: 1, warmup_steps: 0, staleness_cap: 64}
""" % H


class Wan:
    """A proxy with one link per site, of a round trip of 200 ms."""

    def __init__(self, port, names):
        self.process = subprocess.Popen([os.path.join(PROGRAMS, "atoll-wan-proxy")],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addresses = {}
        for name in names:
            said = self.tell(f"link {name} from 127.0.0.1:0 to 127.0.0.1:{port}")
            self.addresses[name] = "127.0.0.1:" + re.search(r"port=(\d+)", said)[1]
            self.tell(f"set {name} rtt 200ms")

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said.startswith("ok"), (line, said)
        return said

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Flood:
    """Of one site, until its standard input ends. A message is made once per lie; each offer has a
    header and a signature of its own, of the newest version that has come."""

    def __init__(self, address, token):
        import atoll_client
        self.client = atoll_client
        self.site = atoll_client.join(address, token, None, timeout=SECONDS)
        self.first = atoll_client.Follower(address, self.site)
        self.first.start(restored=True)  # its offers race, and none is to be taken for a copy's
        self.first.catch_up(seconds=SECONDS)
        # a site has only so many connections, and the oldest give way
        self.connections = [self.client.Connection.of(address, self.site) for _ in range(4)]
        self.taken, self.refused = ([(*noise(self.first.ledger, 0, i, scale), told)
                                     for i, (told, scale) in enumerate(lies)]
                                    for lies in (TAKEN, REFUSED))
        self.counts, self.lock, self.over = {}, threading.Lock(), threading.Event()

    def offer(self, number):
        connection = self.connections[1 + number % 3 if number else 0]
        messages = self.refused if number else self.taken
        while not self.over.is_set():
            message, norm, told = messages[number % len(messages)]
            try:
                self.client.submit(connection, self.site, self.first.ledger, message, norm,
                                   instance=self.first.instance, timeout=SECONDS, **told)
                said = "accepted"
                number += 1 if messages is self.taken else 0
            except self.client.Refused as refused:
                said = refused.code
            except Exception as fault:  # a rival of its own has the stream
                said = (fault.details() if hasattr(fault, "details") else str(fault))[:80]
            with self.lock:
                self.counts[said] = self.counts.get(said, 0) + 1

    def go_on(self):
        threads = [threading.Thread(target=self.offer, args=(i,), daemon=True)
                   for i in range(THREADS)]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        print("there", flush=True)
        end = threading.Thread(target=sys.stdin.read, daemon=True)
        end.start()
        while end.is_alive():
            self.client.heartbeat(self.first.connection, self.first.ledger,
                                  instance=self.first.instance, steps_per_second=9e11,
                                  tokens_per_second=9e11)
            end.join(1)
        self.over.set()
        with self.lock:
            self.counts["per_second"] = round(
                sum(self.counts.values()) / (time.monotonic() - begun), 1)
            print(json.dumps(self.counts), flush=True)
        os._exit(0)


def text_nobody_trains_on(path):
    text = b""
    for folder in ("coordinator", "codec"):
        for name in sorted(os.listdir(os.path.join(ROOT, folder))):
            if name.endswith(".c") and len(text) < 60_000:
                with open(os.path.join(ROOT, folder, name), "rb") as file:
                    text += file.read()
    write(path, text)


def heldout_loss(federation):
    text_nobody_trains_on(federation.path("heldout.txt"))
    federation.call("atollctl", "model", "export", "--dir", federation.run, "--output",
                    federation.path("model"), seconds=120)
    said = federation.call("atoll-trainer", "eval", federation.path("model"),
                           federation.path("heldout.txt"), "--heldout", "1", "--length", "64",
                           "--evaluate-windows", "0", seconds=300).stdout
    return float(re.search(r"heldout_nats=([0-9.]+)", said)[1])


def run_with(hostile):
    """The loss, the status, the site list, and what the hostile one did."""
    import atoll_client
    with Run(text=MANIFEST) as run:
        federation, names = run.federation, HONEST + ("liar",)
        wan, other, said = Wan(federation.port, names), None, None
        try:
            for name in HONEST:
                federation.add_site(name, address=wan.addresses[name], start=False, sequences=8)
            if hostile:  # the first to contribute
                other = subprocess.Popen(
                    [sys.executable, os.path.abspath(__file__), "flood", wan.addresses["liar"]],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    env=dict(os.environ, FLOOD_TOKEN=run.token("liar")))
                assert other.stdout.readline().strip() == "there"
            for name in HONEST:
                federation.sites[name].start()
            admin, scales = run.admin(), []

            def sites():
                return {s.name: s for s in atoll_client.admin(admin, "sites").sites}
            limit = time.monotonic() + 60 * SECONDS
            while sum(s.tokens for n, s in sites().items() if n in HONEST) < TOKENS:
                assert time.monotonic() < limit, "the honest sites do not get on"
                assert federation.status()["phase"] == "active", federation.status()
                scales += [s.clip for n, s in sites().items() if n in HONEST and s.contributions]
                time.sleep(0.5)
            if other:
                other.stdin.close()
                said = json.loads(other.stdout.read())
            federation.ctl("run", "pause", "--reason", "enough")
            status, found = federation.status(), sites()
            for name in HONEST:
                federation.sites[name].end(20)
            federation.coordinator.end(20)
            return heldout_loss(federation), status, found, sorted(scales), said
        finally:
            if other and other.poll() is None:
                other.kill()
            wan.close()


def test_a_flood_of_what_cannot_be_over_a_long_link_leaves_the_model_as_good():
    control, before, sites, scales, _ = run_with(False)
    print(f"    without the flood: held-out {control:.4f} nats at version {before['version']}, "
          f"median scale {scales[len(scales) // 2]:.3f}", flush=True)
    loss, status, sites, scales, said = run_with(True)
    print(f"    with it: held-out {loss:.4f} nats at version {status['version']}, median scale of "
          f"the honest {scales[len(scales) // 2]:.3f}; of {status['accepted']} contributions the "
          f"liar's {sites['liar'].contributions}; {said}", flush=True)
    assert status["inner_steps"] == H, status
    assert scales[len(scales) // 2] > 0.3, scales
    assert sites["liar"].tokens_uncounted > sites["liar"].tokens / 2, sites["liar"]
    assert said["accepted"] > 1 and sum(said.values()) > 10 * said["accepted"], said
    assert TOKENS < LONG or loss <= 1.02 * control, (loss, control)


if __name__ == "__main__":
    if sys.argv[1:2] == ["flood"]:
        Flood(sys.argv[2], os.environ.pop("FLOOD_TOKEN")).go_on()
    sys.exit(main(globals()))
