"""What tests/interrupt_test.sh runs: nothing that a program waits for keeps it from ending, with
the real programs."""
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from federation_harness import Federation, manifest  # noqa: E402
from script_test import DEADLINE_S, PREPARE, ROOT, Skip, main, write  # noqa: E402

PROGRAMS = os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build/release/bin")
SHAPE = ("--vocabulary 256 --hidden 32 --layers 1 --heads 2 --kv-heads 1 --ffn 64 --context 32 "
         "--length 32".split())


def program(name):
    return os.path.join(PROGRAMS, name)


def federation(**more):
    return Federation(PROGRAMS, os.path.abspath("federation"), manifest(**more))


def refuses(what, *arguments, code=None):
    """It ends by itself, not with success, and says what the path is."""
    try:
        done = subprocess.run([str(a) for a in arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace", timeout=30)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it hangs: {' '.join(map(str, arguments))}") from None
    assert (done.returncode not in (0, None) and
            done.returncode > 0), f"exit {done.returncode}: {arguments}\n{done.stdout}{done.stderr}"
    assert what in done.stderr, f"{arguments} says:\n{done.stderr}"


def test_a_pipe_in_the_place_of_a_file_is_refused_by_every_program():
    os.mkfifo("pipe")
    os.mkfifo("pipe.bin")
    os.mkfifo("pipe.safetensors")
    os.mkfifo("model.jsonl")
    os.mkdir("model")
    os.mkfifo("model/config.json")
    write("text", "some text to train on, again and again. " * 2000)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    trainer, node, ctl, sim = (program("atoll-trainer"), program("atoll-node"), program("atollctl"),
                               program("atoll-sim"))
    for data, what in (("pipe", "a pipe (FIFO)"), ("pipe.bin", "a pipe (FIFO)"),
                       ("socket", "a socket"), ("/dev/zero", "a device"), (".", "a directory")):
        refuses(what, trainer, *SHAPE, "--steps", "1", data)
    refuses("FIFO", trainer, *SHAPE, "--steps", "1", "--start", "pipe.safetensors",
            "--data-format", "bytes", "text")
    refuses("FIFO", trainer, *SHAPE, "--steps", "1", "--state", "pipe", "text")
    refuses("FIFO", trainer, *SHAPE, "--steps", "1", "--log", "model.jsonl", "text")
    refuses("FIFO", trainer, *SHAPE, "--steps", "1", "--log", "pipe", "text")
    refuses("FIFO", trainer, "eval", "model", "text")
    refuses("FIFO", ctl, "run", "create", "new", "--manifest", "pipe")
    refuses("FIFO", sim, "plan", "pipe")
    refuses("FIFO", program("atoll-wan-proxy"), "--wan", "pipe", "--describe")
    refuses("FIFO", sys.executable, PREPARE, "--tokenizer", "pipe", "--output", "out", "text")
    refuses("FIFO", sys.executable, PREPARE, "--output", "out", "pipe")
    run = federation()
    site = run.add_site_stopped()
    refuses("FIFO", node, "validate", "--dir", site, "--data", "pipe")
    refuses("FIFO", node, "run", "--dir", site, "--data", "pipe")
    os.rename(os.path.join(site, "node.yaml"), "node.yaml")
    os.mkfifo(os.path.join(site, "node.yaml"))
    refuses("FIFO", node, "run", "--dir", site)


def test_an_output_that_is_a_device_stays_one():
    write("text", "some text to train on, again and again. " * 2000)
    if os.geteuid() != 0:
        raise Skip("a device can be made by root only")
    try:
        os.mknod("null", 0o666 | 0o020000, os.makedev(1, 3))
    except OSError as error:
        raise Skip(f"a device cannot be made here: {error}") from None
    refuses("a device", program("atoll-trainer"), *SHAPE, "--steps", "1", "--plot", "null", "text")
    assert os.stat("null").st_mode & 0o170000 == 0o020000


class Large:
    """Hours of tokens that take no room, below the vocabulary and so to be read."""

    def __init__(self, name="large.bin", gigabytes=4000):
        with open(name, "wb") as file:
            file.truncate(gigabytes << 30)


def wait_for(process, log, text):
    limit = time.monotonic() + DEADLINE_S
    while True:
        with open(log, errors="replace") as file:
            said = file.read()
        if text in said:
            return said
        assert process.poll() is None, f"it ended with {process.returncode}:\n{said}"
        assert time.monotonic() < limit, f"it never says {text}:\n{said}"
        time.sleep(0.05)


def ended(process, log, number):
    process.send_signal(number)
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        with open(log, errors="replace") as file:
            raise AssertionError(f"SIG {number} does not end it:\n{file.read()}") from None


def start(log, *arguments, **more):
    with open(log, "wb") as file:
        return subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=file,
                                stderr=file, **more)


def test_a_check_of_all_data_says_how_far_it_is_and_ends_at_a_signal():
    Large()
    run = federation()
    site = run.add_site_stopped()
    for number, arguments in ((signal.SIGTERM, [program("atoll-node"), "run", "--dir", site,
                                                "--data", "large.bin", "--data-format", "u16"]),
                              (signal.SIGINT, [program("atoll-node"), "validate", "--dir", site,
                                               "--data", "large.bin", "--data-format", "u16"]),
                              (signal.SIGHUP,
                               [program("atoll-trainer"), *SHAPE, "--vocabulary", "300",
                                "--steps", "1", "--data-format", "u16", "large.bin"])):
        process = start("log", *arguments)
        said = wait_for(process, "log", "checking_data")
        assert "large.bin" in said and "seconds_left=" in said, said
        assert ended(process, "log", number) in (0, 128 + number)


def test_what_was_read_whole_once_is_not_read_at_the_next_start():
    """The reads are counted: a file in which the whole of it has been read is then touched only
    where a fingerprint looks."""
    strace = shutil.which("strace")
    if not strace:
        raise Skip("strace is not installed")
    with open("tokens.bin", "wb") as file:
        file.write(bytes(range(1, 201)) * 200_000)  # 40 MB of 16-bit tokens below 60000
    read = []
    for _ in range(2):
        done = subprocess.run([strace, "-f", "-e", "trace=pread64", "-o", "calls",
                               program("atoll-trainer"), *SHAPE, "--vocabulary", "60000", "--steps",
                               "1", "--data-format", "u16", "tokens.bin"],
                              env=dict(os.environ, ATOLL_CACHE=os.path.abspath("cache")),
                              capture_output=True, text=True, timeout=DEADLINE_S)
        if done.returncode and "ptrace" in done.stderr:
            raise Skip("strace may not trace here")
        assert done.returncode == 0, done.stderr
        with open("calls") as file:
            read.append(sum(int(line.rsplit("=", 1)[1]) for line in file if "pread64(" in line and
                            line.rsplit("=", 1)[1].strip().isdigit()))
    assert read[0] >= 40_000_000 and read[1] < 20_000_000, read


def test_what_is_first_in_a_container_ends_at_a_signal():
    """The first process of a PID namespace has no default action: what has no handler is
    ignored."""
    base = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*base, "true"], capture_output=True).returncode != 0:
        raise Skip("a PID namespace needs root")
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(8)
    run = federation()
    run.start_coordinator()
    token = run.invite("a")["token"]
    run.close()
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for arguments in ([program("atoll-node"), "join", address, "--token-file",
                           run.token_file(token), "--dir", "s", "--data", "text"],
                          [program("atollctl"), "--keys", run.path("run", "keys"),
                           "--server", address, "--timeout", "10m", "run", "status"]):
            process = start("log", *base, *arguments)
            time.sleep(0.5)  # it may be anywhere: wherever it is, it ends
            inner = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True,
                                   text=True).stdout.split()
            assert len(inner) == 1, inner
            os.kill(int(inner[0]), number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"signal {number} is ignored: {arguments[:2]}") from None


def checkpoint_of(site):
    path = os.path.join(site.directory, "state")
    return max((os.stat(os.path.join(folder, name)).st_mtime_ns
                for folder, _, names in os.walk(path) for name in names),
               default=0) if os.path.isdir(path) else 0


def test_a_hangup_ends_a_site_in_order_and_one_under_nohup_goes_on():
    run = federation()
    run.start_coordinator()
    try:
        site = run.add_site("a", "--checkpoint-interval", "1h")
        run.until("the site trains", lambda: run.version() >= 3, DEADLINE_S)
        site.handle.send_signal(signal.SIGHUP)
        assert site.wait(DEADLINE_S) == 0, site.tail()
        assert site.status()["state"] == "stopped", site.status()
        steps = site.status()["trainer_steps"]
        assert "signal=HUP" in site.text()
        site.start(preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        run.until("it goes on from there", lambda: f"trainer_steps={steps}" in site.text(),
                  DEADLINE_S)
        before = run.version()
        site.handle.send_signal(signal.SIGHUP)
        run.until("it trains on", lambda: run.version() >= before + 3, DEADLINE_S)
        assert site.end(DEADLINE_S) == 0, site.tail()
        run.coordinator.handle.send_signal(signal.SIGHUP)
        assert run.coordinator.wait(DEADLINE_S) == 0, run.coordinator.tail()
    finally:
        run.close()


USER = 54321


def as_user_with(threads):
    def prepare():
        os.setgid(USER)
        os.setuid(USER)
        resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))
    return prepare


def test_threads_that_cannot_start_are_an_error_and_not_a_hang():
    if os.geteuid() != 0:
        raise Skip("the limit of processes of another user is set by root only")
    run = federation()
    run.start_coordinator()
    token_file = os.path.abspath(run.token_file(run.invite("b")["token"]))
    site = run.add_site("a", start=False).directory
    os.chmod(".", 0o755)
    for folder, _, names in os.walk("federation"):
        for path in [folder, *(os.path.join(folder, name) for name in names)]:
            os.chown(path, USER, USER)
    address = f"127.0.0.1:{run.port}"
    spare = os.path.abspath("federation/spare")
    for place in (os.getcwd(), os.path.dirname(program("atoll-node"))):
        while place != "/":
            if not os.stat(place).st_mode & 1:
                raise Skip(f"another user cannot reach {place}")
            place = os.path.dirname(place)
    joined = False  # a token admits once; with no data the node ends after it has joined
    try:
        for limit in (1, 2, 4, 7, 9, 11, 13):
            for what in ([program("atoll-node"), "join", address, "--token-file",
                          token_file, "--dir", os.path.abspath("federation/b")],
                         [program("atoll-node"), "run", "--dir", site],
                         [program("atollctl"), "--keys", run.path("run", "keys"),
                          "--server", address, "run", "status"],
                         [program("atoll-coordinator"), "--dir", spare, "--listen", "127.0.0.1:0"]):
                if what[1] == "join" and joined:
                    continue
                if what[0].endswith("coordinator"):
                    shutil.rmtree(spare, ignore_errors=True)
                    shutil.copytree(run.run, spare)
                    for folder, _, names in os.walk(spare):
                        for path in [folder, *(os.path.join(folder, name) for name in names)]:
                            os.chown(path, USER, USER)
                process = start("log", *what, preexec_fn=as_user_with(limit))
                # it ends with an error, at the latest by its watchdog, or works
                end = time.monotonic() + 120
                while process.poll() is None and time.monotonic() < end and not works("log"):
                    time.sleep(0.05)
                with open("log", errors="replace") as file:
                    said = file.read()
                if process.poll() is None:
                    assert works("log"), f"it hangs with {limit} threads: {what}\n{said}"
                    assert ended(process, "log", signal.SIGTERM) == 0, said
                elif what[1] == "join" and " joined " in said:
                    joined = True
                    assert process.returncode > 0 and "no training data" in said, said
                elif process.returncode != 0:
                    # the watchdog's words, where the network's library waits for ever
                    assert process.returncode > 0 and (
                        "Resource temporarily unavailable" in said or
                        "did not end in time and is cut off" in said), (
                        f"{limit} threads: {what}\n{said}")
        assert limit_is_named()
    finally:
        run.close()


def works(log):
    with open(log, errors="replace") as file:
        said = file.read()
    return " listening " in said or " started " in said


def limit_is_named():
    with open("log", errors="replace") as file:
        said = file.read()
    return "ulimit -u" in said or " listening " in said


def add_site_stopped(self):
    """A site that joined; nothing runs."""
    self.start_coordinator()
    site = self.add_site("stopped", start=False)
    self.close()
    return site.directory


Federation.add_site_stopped = add_site_stopped

if __name__ == "__main__":
    sys.exit(main(globals()))
