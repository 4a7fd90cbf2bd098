"""What tests/relay_test.sh runs: training jobs with ranks on several hosts, each with a relay; the
hosts are directories of this one."""
import os
import random
import re
import shutil
import socket
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attach_test import PROGRAMS, SECONDS, SUMS, TORCH, Run  # noqa: E402
from attach_test import Group, exported, in_the_model, kill_and_sum  # noqa: E402
from script_test import main, need  # noqa: E402


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Relay:
    """A relay in a directory of its own, for the ranks of one host."""

    def __init__(self, name, to, token):
        self.directory = os.path.abspath(name)
        self.log, self.handle = self.directory + ".log", None
        self.command = [os.path.join(PROGRAMS, "atoll-node"), "relay", "--to", f"127.0.0.1:{to}",
                        "--token-file", token, "--dir", self.directory]

    def start(self):
        with open(self.log, "ab") as log:
            self.handle = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=log)
        return self

    def text(self):
        with open(self.log) as file:
            return file.read()

    def kill(self):
        self.handle.kill()
        self.handle.wait()


class Link:
    """A long way to the node; killed, it ends all connections, or stalls for a while."""

    def __init__(self, to, *settings):
        self.handle = subprocess.Popen([os.path.join(PROGRAMS, "atoll-wan-proxy")], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self.say(f"link a from 127.0.0.1:0 to 127.0.0.1:{to}").split("=")[1])
        self.say("set a " + " ".join(settings))
        self.draw = random.Random(1)

    def say(self, command):
        self.handle.stdin.write(command + "\n")
        self.handle.stdin.flush()
        answer = self.handle.stdout.readline()
        assert answer.startswith("ok"), (command, answer)
        return answer

    def kill(self):
        self.say(self.draw.choice(("reset a", "stall a 1s", "stall a 2s up", "stall a 2s down")))

    def start(self):
        pass

    def end(self):
        self.handle.kill()
        self.handle.wait()
        self.handle.stdin.close()
        self.handle.stdout.close()


class Hosts(Run):
    """A Run whose job has its ranks at so many relays; with `local` the first is at the node.
    link: settings of a long way that they take to it."""

    def __init__(self, relays, *names, link=None, local=False, **keys):
        self.port, self.relays, self.local, self.link = free_port(), [], local, None
        super().__init__(*names, options=("--trainer-listen", f"127.0.0.1:{self.port}"), **keys)
        if link:
            self.link = Link(self.port, *link)
        token = os.path.join(self.site.directory, "relay.token")
        for number in range(relays):
            to = self.link.port if link else self.port
            self.relays.append(Relay(f"host{number}", to, token).start())
        for relay in self.relays:
            self.until("the relay is connected", lambda r=relay: "node_reached" in r.text())
        self.victims = self.relays + ([self.link] * 3 if link else [])

    def directory_of(self, rank):
        if self.local and rank == 0:
            return self.site.directory
        return self.relays[rank - self.local].directory

    def waited(self):
        """Milliseconds and steps, of each rank that a relay had."""
        return [f"{ms} ms in {steps} steps" for relay in self.relays for steps, ms in
                re.findall(r"rank_left .*steps=(\d+) waited_ms=(\d+)", relay.text())]

    def __exit__(self, *what):
        if what[0]:
            for relay in self.relays:
                print(relay.log, relay.text()[-3000:], flush=True)
            print(self.site.tail(40), flush=True)
        for relay in self.relays:
            if relay.handle.poll() is None:
                relay.kill()
        if self.link:
            self.link.end()
        super().__exit__(*what)


def first_payload(places):
    """Of a DDP job with a rank in each of the places, a relay's number or None for the node's own
    host: steps and digest."""
    relays = len({place for place in places if place is not None})
    with Hosts(relays, inner_steps=4, inner__dylu="false") as run:
        port = free_port()
        for rank, place in enumerate(places):
            run.job(TORCH, run.federation.path("text.txt"), RANK=str(rank),
                    WORLD_SIZE=str(len(places)), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                    directory=None if place is None else run.relays[place].directory)
        run.until("it contributes", lambda: run.site.receipts)
        first = run.contributions()[0]
        run.until("it goes on", lambda: run.receipts() >= 4)
        run.end()
        for job in run.jobs:
            assert job.wait() == 0, job.text()
        for relay in run.relays:
            assert relay.handle.wait(SECONDS) == 0, relay.text()
        told = re.findall(r"trainer_attached .*ranks=(\d+) relayed=(\d+) ", run.site.text())
        assert told[0] == (str(len(places)), str(sum(p is not None for p in places))), told
        return first["inner_steps"], first["payload"]


def test_ranks_on_other_hosts_publish_the_payload_bytes_of_a_job_on_the_nodes_host():
    need("torch")
    found = {}
    for places in ((None, None), (None, 0), (0, 1)):
        for attempt in range(3):
            steps, payload = first_payload(places)
            shutil.move("federation", "federation-" + "-".join(map(str, places)) + f"-{attempt}")
            found.setdefault(steps, {}).setdefault(payload, []).append(places)
            if len(found) == 1:
                break
    # the step that an order is for depends on when it is seen: what has the same has the same bytes
    assert all(len(payloads) == 1 for payloads in found.values()), found
    together = [places for payloads in found.values() for places in payloads.values()
                if len(set(places)) > 1]
    assert together, found


def test_a_relay_that_cannot_be_says_why_and_changes_nothing():
    with open("right", "w") as file:
        file.write("ab" * 32 + "\n")
    with open("wrong", "w") as file:
        file.write("word\n")
    with open("words", "w") as file:
        file.write("two words\n")
    os.mkdir("site")
    with open("site/site.json", "w") as file:
        file.write("{}")
    with open("site/attach.token", "w") as file:
        file.write("the node's")

    def refused(code, word, *options):
        done = subprocess.run([os.path.join(PROGRAMS, "atoll-node"), "relay", *options],
                              capture_output=True, text=True, check=False, timeout=SECONDS)
        assert done.returncode == code and word in done.stderr, (options, done)
    to, token = ("--to", "127.0.0.1:1"), ("--token-file", "right")
    refused(2, "holds no relay's token", *to, "--token-file", "wrong", "--dir", "host")
    refused(2, "more than one word", *to, "--token-file", "words", "--dir", "host")
    refused(2, "is a site's directory", *to, *token, "--dir", "site")
    refused(2, "--data", *to, *token, "--dir", "host", "--data", "right")
    refused(2, "to", *token, "--dir", "host")
    refused(1, "107 are the limit", *to, *token, "--dir", "host", "--attach-socket", "x" * 120)
    with open("site/attach.token") as file:
        assert file.read() == "the node's"


def test_a_rank_at_a_relay_without_a_node_is_told_so_and_the_relay_comes_back():
    with Hosts(1, inner_steps=100, inner__dylu="false", **SUMS) as run:
        first = exported(run, "first", "--at", "0")
        group = Group(run, 1, "steps")
        run.until("it contributes", lambda: run.receipts() >= 2)
        run.site.kill()
        job = group.jobs[0]

        def ended():  # the node ended before it said what of an order that was acknowledged
            return job.handle.poll() is not None

        run.federation.until("it is told", lambda: ended() or "the relay has no connection to the "
                             "node at" in job.text(), SECONDS, alive=False)
        assert not ended() or "did not say" in job.text(), job.text()
        run.site.start()
        run.federation.until("it is attached again", lambda: ended() or "attached again" in
                             job.text(), SECONDS, alive=False)
        before = run.receipts()
        run.federation.until("it goes on", lambda: group.look() or run.receipts() >= before + 3,
                             SECONDS, alive=False)
        run.end()
        assert group.jobs[0].wait() == 0, group.jobs[0].text()
        in_the_model(run, first)


def kills(default):
    return int(os.environ.get("ATOLL_TEST_KILLS") or default)


def test_kills_of_a_job_on_two_other_hosts_sum_up_and_publish_no_step_twice():
    kill_and_sum(kills(10), 2, 1, "two relays", lambda **keys: Hosts(2, **keys))


def test_kills_of_a_job_on_the_nodes_host_and_another_sum_up_and_publish_no_step_twice():
    kill_and_sum(kills(8), 2, 3, "one relay", lambda **keys: Hosts(1, local=True, **keys))


def test_a_long_way_to_the_node_loses_nothing_and_ranks_need_not_wait_for_it():
    with Hosts(1, local=True, link=("rtt", "100ms"), inner_steps=8, inner__dylu="false",
               **SUMS) as run:
        first = exported(run, "first", "--at", "0")
        group = Group(run, 2, "steps")
        run.until("it contributes", lambda: run.receipts() >= 8)
        run.end()
        for job in group.jobs:
            assert job.wait() == 0, job.text()
        there = in_the_model(run, first)
        assert there == list(range(len(there))) and len(there) >= 8, there
        for relay in run.relays:
            assert relay.handle.wait(SECONDS) == 0, relay.text()
        print(f"100 ms away: {len(there)} steps in the model, waited {run.waited()}", flush=True)


def test_kills_and_a_long_way_that_stalls_and_breaks_sum_up_and_publish_no_step_twice():
    kill_and_sum(kills(6), 2, 1, "a long way",
                 lambda **keys: Hosts(1, local=True, link=("rtt", "60ms"), **keys))


if __name__ == "__main__":
    sys.exit(main(globals()))
