"""The machinery of scripts/gpu-check: parts, each with a deadline of its own, whose results are
written at once.

A part is a function of a `Run`. What it returns is its result; it raises `Failed` where something
is wrong and `Skipped` where this machine cannot do it. Everything it starts goes through the run,
which ends all of it at the part's deadline: so a part that hangs costs its deadline and no more.
After a part that did not pass, the device is asked whether it is still there; while it is not,
parts are `lost` without being tried, and each asks again.

DIRECTORY/results.jsonl gets a line per part, synced, as it ends; DIRECTORY/check.log gets whatever
the programs print.
"""
import json
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Callable

TAIL_LINES = 12
# a process that waits within the driver may not end at all: it is left behind
AFTER_KILL_S = 5
HEALTH_DEADLINE_S = 20
LOST_TRIES = 2         # as often the device is asked again before the rest is given up


class Failed(Exception):
    """Something is wrong; `results` are what was found all the same."""

    def __init__(self, reason, **results):
        super().__init__(reason)
        self.results = results


class Skipped(Exception):
    """This machine cannot do it; the reason says what is missing."""


class Hung(Exception):
    """The part's deadline passed."""


@dataclass
class Part:
    name: str
    about: str
    estimate_s: float  # on an H200
    deadline_s: float
    body: Callable
    quick: bool = True


@dataclass
class Run:
    directory: str
    environment: dict
    health: Callable            # of a Run: raises where the device is not there
    log: object = None
    deadline: float = 0.0       # of the part that runs, time.monotonic()
    started: list = field(default_factory=list)

    def left(self):
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise Hung()
        return seconds

    def spawn(self, command, environment=None, **pipes):
        """A process in a group of its own, which the part's end takes with it."""
        command = [str(word) for word in command]
        self.log.write(f"$ {' '.join(command)}\n")
        self.log.flush()
        pipes.setdefault("stdin", subprocess.DEVNULL)
        pipes.setdefault("stdout", self.log)
        pipes.setdefault("stderr", self.log)
        try:
            process = subprocess.Popen(command, env={**self.environment, **(environment or {})},
                                       start_new_session=True, **pipes)
        except OSError as error:
            raise Failed(f"cannot start {command[0]}: {error.strerror}") from error
        self.started.append(process)
        return process

    def call(self, command, environment=None):
        """Runs it to its end: (exit code, what it printed)."""
        at = os.path.getsize(self.log.name)
        code = self.wait(self.spawn(command, environment))
        with open(self.log.name, errors="replace") as file:
            file.seek(at)
            printed = file.read()
        return code, printed.split("\n", 1)[1] if "\n" in printed else ""

    def wait(self, process):
        try:
            return process.wait(self.left())
        except subprocess.TimeoutExpired:
            raise Hung() from None

    def ask(self, process, line):
        """Sends a contestant a line and waits for the line of JSON that it answers with."""
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise Failed("it ended before it was asked") from None
        answer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(self.left()):
                    raise Hung()
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    raise Failed(f"it ended with status {process.wait(AFTER_KILL_S)}",
                                 output=self.tail())
                answer += piece
        self.log.write(answer.decode(errors="replace"))
        self.log.flush()
        try:
            return json.loads(answer.splitlines()[-1])
        except ValueError:
            raise Failed(f"it answered {answer[-200:]!r}") from None

    def end_all(self):
        """Returns how many processes did not end even when killed."""
        stuck = 0
        for process in self.started:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                process.wait(AFTER_KILL_S)
            except subprocess.TimeoutExpired:
                stuck += 1
        self.started.clear()
        return stuck

    def tail(self):
        with open(self.log.name, errors="replace") as file:
            return file.read()[-8000:].splitlines()[-TAIL_LINES:]

    def write(self, **line):
        with open(os.path.join(self.directory, "results.jsonl"), "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def run_part(run, part, seconds):
    """One part within so many seconds: (status, reason, results)."""
    run.deadline = time.monotonic() + seconds
    try:
        return "passed", None, part.body(run) or {}
    except Failed as failure:
        return "failed", str(failure), {"output": run.tail(), **failure.results}
    except Skipped as reason:
        return "skipped", str(reason), {}
    except Hung:
        return "hung", f"no end within {seconds:.0f} s", {"output": run.tail()}
    finally:
        stuck = run.end_all()
        if stuck:
            run.log.write(f"{stuck} processes did not end when they were killed\n")


def device_is_there(run):
    run.deadline = time.monotonic() + HEALTH_DEADLINE_S
    try:
        run.health(run)
        return None
    except (Failed, Hung) as reason:
        return str(reason) or f"the device did not answer within {HEALTH_DEADLINE_S} s"
    finally:
        run.end_all()


def run_parts(run, parts, minutes, say=print):
    """All of them, in order of worth; True if each passed or was skipped."""
    os.makedirs(run.directory, exist_ok=True)
    begun, doubtful, misses, good = time.monotonic(), True, 0, True
    with open(os.path.join(run.directory, "check.log"), "a") as run.log:
        for part in parts:
            left = minutes * 60 - (time.monotonic() - begun)
            at, lost = time.monotonic(), None
            run.log.write(f"== {part.name}: {part.about}\n")
            run.log.flush()
            if doubtful and misses < LOST_TRIES:
                lost = device_is_there(run)
                misses = misses + 1 if lost else 0
                doubtful = lost is not None
            elif doubtful:
                lost = f"the device did not come back in {LOST_TRIES} tries"
            if lost:
                status, reason, results = "lost", lost, {}
            elif part.estimate_s > left:
                status, reason, results = ("skipped",
                                           f"{left:.0f} s are left of {minutes:g} minutes", {})
            else:
                status, reason, results = run_part(run, part, min(part.deadline_s, left))
            doubtful = doubtful or status in ("failed", "hung")
            good = good and status in ("passed", "skipped")
            seconds = round(time.monotonic() - at, 2)
            run.write(part=part.name, about=part.about, status=status, reason=reason,
                      seconds=seconds,
                      estimate_s=part.estimate_s, deadline_s=part.deadline_s, results=results)
            say(f"{status:8} {part.name:20} {seconds:6.1f} s{f'  {reason}' if reason else ''}")
    return good
