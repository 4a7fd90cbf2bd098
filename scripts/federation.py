"""A federation of real processes on this machine, for tests, the demo and scripts/local-federation.
Standard library only.

Federation makes a run, starts and kills its programs, reads their logs and, at the end, audits
everything against the ledger. Programs run with ATOLL_LOG=debug, where no line is dropped: each
receipt that a site got is a line in its log, and the audit holds every one of them against the
ledger.
"""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from outputs import OutputFault, claim_directory  # noqa: E402

ROOT = os.environ.get("ATOLL_ROOT") or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


DIRECT = {"no_grpc_proxy": "127.0.0.1"}  # whatever proxy this machine's environment names


class Failure(Exception):
    pass


def own_directory(path):
    """Ours, empty, and nobody else's while this process lives. Failure where it holds what no
    federation wrote."""
    try:
        return claim_directory(path, ".atoll-federation")
    except (OutputFault, OSError) as fault:
        raise Failure(f"--output: {fault}")


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


class Process:
    """A program of ours with its log, which is read as it grows."""

    def __init__(self, name, arguments, log):
        self.name, self.arguments, self.log, self.handle = name, arguments, log, None
        self.environment = {}  # beside our own
        self.offset = 0
        self.part = ""
        self.lines = []

    def start(self, arguments=None, preexec=None):
        environment = dict(os.environ, ATOLL_LOG="debug", **DIRECT, **self.environment)
        with open(self.log, "ab") as log:
            self.handle = subprocess.Popen(arguments or self.arguments, stdin=subprocess.DEVNULL,
                                           stdout=log, stderr=log, env=environment,
                                           preexec_fn=preexec)

    def kill(self):
        self.handle.send_signal(signal.SIGKILL)
        self.handle.wait()

    def alive(self):
        return self.handle is not None and self.handle.poll() is None

    def end(self, seconds):
        """SIGTERM, then the exit code; None, and SIGKILL, if it takes longer than that."""
        if self.alive():
            self.handle.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds):
        try:
            return self.handle.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def read(self):
        """The lines that came since the last call; `lines` keeps them all."""
        try:
            with open(self.log, "rb") as file:
                file.seek(self.offset)
                raw = file.read()
        except OSError:
            return []
        self.offset += len(raw)
        *whole, self.part = (self.part + raw.decode(errors="replace")).split("\n")
        self.lines += whole
        return whole

    def text(self):
        self.read()
        return "\n".join(self.lines)

    def tail(self, count=12):
        self.read()
        return "\n".join(self.lines[-count:])


class Site(Process):
    """Counts what its log says of receipts and steps."""

    def __init__(self, name, arguments, log, directory):
        super().__init__(name, arguments, log)
        self.directory = directory
        self.receipts = []  # (fragment, sequence)
        self.sent = 0  # bytes of payloads, those of broken tries too
        self.version = 0  # newest step applied

    def read(self):
        lines = super().read()
        for line in lines:
            if " contribution_accepted " in line or (" contribution_refused " in line and
                                                     "code=duplicate" in line.lower()):
                found = re.search(r"fragment=(\d+) sequence=(\d+)", line)
                self.receipts.append((int(found.group(1)), int(found.group(2))))
            if " sent=" in line and (" contribution_" in line or " upload_broken " in line):
                self.sent += int(re.search(r" sent=(\d+)", line).group(1))
            if " step_applied " in line:
                self.version = max(self.version, int(re.search(r"version=(\d+)", line).group(1)))
        return lines

    def status(self):
        return read_json(os.path.join(self.directory, "status.json")) or {}


class Federation:
    def __init__(self, programs, output, manifest_text, disks=None, mount=None, create=()):
        """disks: megabytes by folder below output, each mounted by mount(path, megabytes). create:
        more options of `run create`."""
        self.programs, self.output = os.path.abspath(programs), os.path.abspath(output)
        self.run = self.path("run")
        self.sites = {}
        self.coordinator = None
        self.port = 0
        self.mark = own_directory(self.output)
        os.makedirs(self.path("logs"))
        os.makedirs(self.path("sites"))
        for folder, megabytes in (disks or {}).items():
            mount(self.path(folder), megabytes)
        with open(self.path("manifest.yaml"), "w") as file:
            file.write(manifest_text)
        self.begins_from = [str(word) for word in create]
        self.call("atollctl", "run", "create", self.run, "--manifest", self.path("manifest.yaml"),
                  *self.begins_from)

    # ---- small helpers ----
    def path(self, *parts):
        return os.path.join(self.output, *parts)

    def program(self, name):
        return os.path.join(self.programs, name)

    def call(self, name, *arguments, check=True, seconds=30):
        done = subprocess.run([self.program(name), *arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True,
                              errors="replace", timeout=seconds, env=dict(os.environ, **DIRECT))
        if check and done.returncode != 0:
            raise Failure(f"{name} {' '.join(arguments[:3])}: exit code {done.returncode}: "
                          f"{done.stderr.strip()[-500:]}")
        return done

    def ctl(self, *arguments, check=True):
        return self.call("atollctl", "--format", "json", "--keys", os.path.join(self.run, "keys"),
                         "--server", f"127.0.0.1:{self.port}", *arguments, check=check)

    def status(self):
        return json.loads(self.ctl("run", "status").stdout)

    # ---- life ----
    def start_coordinator(self, *options, seconds=60):
        """On the port it had before, if it had one. Options hold for this start and all later
        ones."""
        port_file = self.path("port")
        if os.path.exists(port_file):
            os.unlink(port_file)
        if not self.coordinator:
            self.coordinator = Process("coordinator", [], self.path("logs", "coordinator.log"))
            self.coordinator.options = []
        self.coordinator.options += options
        self.coordinator.arguments = [self.program("atoll-coordinator"), "--dir", self.run,
                                      "--listen", f"127.0.0.1:{self.port}",
                                      "--port-file", port_file, *self.coordinator.options]
        self.coordinator.start()
        limit = time.monotonic() + seconds
        while not os.path.exists(port_file):
            if not self.coordinator.alive() or time.monotonic() > limit:
                raise Failure("the coordinator does not start:\n" + self.coordinator.tail())
            time.sleep(0.01)
        with open(port_file) as file:
            self.port = int(file.read())

    def invite(self, name, *options):
        return json.loads(self.ctl("site", "invite", "--name", name, *options).stdout)

    def token_file(self, token):
        """A secret in a command line could be read by every user of this machine."""
        path = self.path(f"token-{hashlib.sha256(token.encode()).hexdigest()[:12]}")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token + "\n")
        return path

    def add_site(self, name, *options, start=True, data=None, address=None, sequences=2,
                 role="site"):
        """Joins, then is started from its directory alone, as after any restart."""
        invitation = self.invite(name, "--role", role)
        directory = self.path("sites", name)
        settings = ["--dir", directory, "--threads", "1", "--batch-sequences", str(sequences),
                    "--heartbeat-interval", "1s", *options]
        if "--attach" not in options:
            settings += ["--data", data or self.path("text.txt")]
        self.call("atoll-node", "join", address or invitation["address"],
                  "--token-file", self.token_file(invitation["token"]), "--run=false", *settings)
        site = Site(name, [self.program("atoll-node"), "run", "--dir", directory],
                    self.path("logs", name + ".log"), directory)
        self.sites[name] = site
        if start:
            site.start()
        return site

    def processes(self):
        return [p for p in [self.coordinator, *self.sites.values()] if p]

    def check_alive(self, processes=None):
        for process in processes or self.processes():
            if process.handle and not process.alive():
                raise Failure(f"{process.name} ended by itself with code "
                              f"{process.handle.returncode}:\n{process.tail()}")

    def until(self, what, condition, seconds, alive=True):
        """Waits for it, reading logs; returns how long that took."""
        start = time.monotonic()
        while True:
            for process in self.processes():
                process.read()
            if condition():
                return time.monotonic() - start
            if alive:
                self.check_alive()
            if time.monotonic() - start > seconds:
                tails = "".join(f"\n--- {p.name}\n{p.tail(6)}" for p in self.processes())
                raise Failure(f"not within {seconds} s: {what}{tails}")
            time.sleep(0.01)

    def version(self):
        """Newest version that any site has applied."""
        return max((site.version for site in self.sites.values()), default=0)

    def stop_run(self, seconds=20):
        """Stops the run for good; every site must end by itself with code 0, then the coordinator
        by SIGTERM."""
        self.ctl("run", "stop", "--reason", "the test is over")
        codes = {name: site.wait(seconds) for name, site in self.sites.items() if site.handle}
        self.final = self.status()
        codes["coordinator"] = self.coordinator.end(60)
        return codes

    def close(self):
        for process in self.processes():
            if process.alive():
                process.kill()
        self.mark.release()

    # ---- the audit ----
    def ledger(self):
        return json.loads(self.call("atollctl", "--format", "json", "ledger", "list",
                                    "--dir", self.run).stdout)

    def verify(self):
        """The whole ledger, replayed on a copy."""
        copy = self.path("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run, copy)
        at = self.begins_from.index("--from") if "--from" in self.begins_from else 0
        source = self.begins_from[at:at + 2] if self.begins_from else []
        done = self.call("atollctl", "--format", "json", "ledger", "verify", "--dir", copy,
                         *source, check=False, seconds=120)
        shutil.rmtree(copy)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise Failure(f"ledger verify: exit code {done.returncode}: "
                          f"{done.stderr.strip()[-500:]}") from None

    def audit(self, sites=None):
        """After stop_run: what does not hold, in words. `sites`: whose roots must be the final one
        (all)."""
        wrong = []
        verified, entries = self.verify(), self.ledger()
        if not verified["verified"]:
            wrong.append(f"the ledger does not verify: {verified}")
        contributions = [e for e in entries if e["kind"] == "contribution"]
        keys = [(e["site"], e["sequence"]) for e in contributions]
        merged = [part["index"] for e in entries if e["kind"] == "step" for part in e["parts"]]
        recorded = {e["version"]: e["state_root"] for e in entries if e["kind"] == "step"}
        if len(keys) != len(set(keys)):
            wrong.append(f"{len(keys) - len(set(keys))} (site, sequence) are in the ledger twice")
        if len(merged) != len(set(merged)):
            wrong.append(f"{len(merged) - len(set(merged))} contributions are merged twice")
        if set(merged) != {e["index"] for e in contributions}:
            wrong.append(f"{len(set(e['index'] for e in contributions) - set(merged))} "
                         "contributions were never merged")
        in_ledger = {(e["site"], e["fragment"], e["sequence"]) for e in contributions}
        self.receipts = 0
        for name, site in self.sites.items():
            site.read()
            status = site.status()
            held = {(status.get("site"), *receipt) for receipt in site.receipts}
            self.receipts += len(held)
            if held - in_ledger:
                wrong.append(f"{name}: {len(held - in_ledger)} receipts are not in the ledger: "
                             f"{sorted(held - in_ledger)[:5]}")
            if sites is not None and name not in sites:
                continue
            if status.get("root") != verified["state_root"]:
                wrong.append(
                    f"{name}: root {status.get('root')} at version {status.get('root_version')}, "
                    f"the ledger's is {verified['state_root']}")
            differ = [v for v, root in status.get("roots", {}).items() if int(v) > 0 and
                      recorded.get(int(v)) != root]
            if differ:
                wrong.append(f"{name}: its roots of versions {differ[:5]} are not the ledger's")
        self.verified, self.entries, self.contributions = verified, entries, contributions
        return wrong
