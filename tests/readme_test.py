"""What tests/readme_test.sh runs: the commands of README.md and of the pages that go on from it, as
printed.

They are taken out of the files: lines of code blocks, and code spans that are commands. The lines
of the code blocks and the table of the simulations are carried out, in the order of PAGES, by a
shell: only the host's name and port, the folder /srv/atoll and the token of the invitation are
replaced. Each has a step here that says how it ends; a line without a step fails the test, and so
does a step without a line. The spans in running text are examples of single flags: for these the
program, the verb, each flag, script and target must exist. What takes minutes is shortened by a
flag behind it; ATOLL_TEST_README=full runs it as it is.
"""
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from script_test import ROOT, main  # noqa: E402

PROGRAMS = os.path.abspath(os.environ.get("ATOLL_BIN") or
                           os.path.join(ROOT, "build", "release", "bin"))
SLOWDOWN = float(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)
FULL = os.environ.get("ATOLL_TEST_README") == "full"
WAIT_S = 60 * SLOWDOWN
PROGRAM_NAMES = ("atollctl", "ctl", "atoll-node", "atoll-coordinator", "atoll-sim", "atoll-trainer",
                 "atoll-wan-proxy")
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:%s|make|printf|scripts/[a-z-]+)(?: |$)" %
                     "|".join(PROGRAM_NAMES))

# in the order in which they are followed
PAGES = ("README.md", "docs/operate.md", "docs/data.md", "docs/simulate.md")


def read_pages():
    """The lines of code blocks, the yaml block, code spans of table cells, code spans of running
    text."""
    blocks, yaml, cells, spans, fence, before = [], [], [], [], None, ""
    text = ""
    for page in PAGES:
        with open(os.path.join(ROOT, page)) as file:
            text += file.read() + "\n"
    for line in re.sub(r"\\\n +", "", text).split("\n"):
        if line.startswith("```"):
            fence = None if fence else line[3:]
        elif fence is not None:
            (yaml if fence == "yaml" else blocks).append(line)
        elif line.startswith("    ") and (before.strip() == "" or before.startswith("    ")):
            blocks.append(line[4:])
        else:
            found = [span.replace("\\|", "|") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", line)]
            (cells if line.startswith("|") else spans).extend(span for span in found
                                                              if COMMAND.match(span))
        before = line
    return [line for line in blocks if line.strip()], "\n".join(yaml) + "\n", cells, spans


def without_comment(line):
    return re.sub(r"\s{2,}# .*$", "", line)


# ---- carrying them out -------------------------------------------------------------------------


class Reader:
    """Somebody who follows the pages from the README's top, in an empty directory."""

    def __init__(self):
        self.port, self.token, self.ctl, self.running = free_port(), None, "", {}
        os.makedirs("build")
        os.makedirs("srv/atoll")
        os.symlink(os.path.join(ROOT, "scripts"), "scripts")
        texts = os.path.join(ROOT, "build", "data")
        if all(os.path.exists(os.path.join(texts, name))
               for name in ("austen.txt", "bible.txt", "perl.txt", "python.txt")):
            os.symlink(texts, "build/data")
        else:
            os.makedirs("build/data")
            for name in ("austen.txt", "bible.txt", "perl.txt", "python.txt"):
                write_text(os.path.join("build/data", name), name)
        write_text("text.txt", "first")
        write_text("other.txt", "other")
        write_text("wiki.txt", "written")
        write_text("code.txt", "coded")
        self.environment = dict(os.environ, PATH=PROGRAMS + ":" + os.environ["PATH"],
                                no_grpc_proxy="127.0.0.1")

    def shell(self, line):
        """As printed, except for host, port, folder and token."""
        line = line.replace("coordinator.example:7400",
                            f"127.0.0.1:{self.port}").replace("0.0.0.0:7400",
                                                              f"0.0.0.0:{self.port}")
        line = line.replace("/srv/atoll", os.path.abspath("srv/atoll"))
        if self.token:
            line = line.replace("AQhl...", self.token)
        return ["bash", "-c", self.ctl + "\n" + line]

    def run(self, line, code=0):
        done = subprocess.run(self.shell(line), capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, timeout=5 * WAIT_S, env=self.environment)
        assert done.returncode == code, (
            f"`{line}`: exit {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")
        return done.stdout

    def start(self, name, line):
        with open(name + ".log", "ab") as log:  # `exec` after the variables that are set for it
            line = re.sub(r"^((?:[A-Z_]+=\S+ )*)", r"\1exec ", without_comment(line))
            self.running[name] = subprocess.Popen(self.shell(line),
                                                  stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=log, env=self.environment)

    def log(self, name):
        with open(name + ".log", errors="replace") as file:
            return file.read()

    def wait(self, name, what, condition):
        end = time.monotonic() + WAIT_S
        while not condition():
            process = self.running[name]
            assert process.poll() is None, (
                f"{name} ended by itself with code {process.returncode}: {self.log(name)[-1500:]}")
            assert time.monotonic() < end, (
                f"{name}: no {what} in {WAIT_S:.0f} s: {self.log(name)[-1500:]}")
            time.sleep(0.02)

    def end(self, name, code=0, signal_number=signal.SIGTERM):
        process = self.running.pop(name)
        if signal_number:
            process.send_signal(signal_number)
        got = process.wait(WAIT_S)
        assert got == code, f"{name}: exit {got}, wanted {code}: {self.log(name)[-1500:]}"

    def close(self):
        for process in self.running.values():
            process.kill()
            process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def write_text(path, word):
    with open(path, "w") as file:
        file.write("".join(f"It was the {word} tide of {i}: the waves came to ring {i * i % 31}, "
                           "and went.\n" for i in range(4000)))


def edit_name(reader, line):
    reader.run(line)
    with open("run.yaml") as file:
        text = file.read()
    with open("run.yaml", "w") as file:
        file.write(text.replace("name: my-run", "name: tides"))


def dry_run(reader, line):
    said = reader.run(line)
    assert ("would be made" in said and "parameters" in said and
            not os.path.exists("srv/atoll/run")), said


def serve(reader, line):
    reader.start("coordinator", line + " --heldout other.txt --heldout-windows 2")
    reader.wait("coordinator", "readiness", lambda: " listening " in reader.log("coordinator"))


def define(reader, line):
    reader.ctl = reader.shell(line)[2]


def invite(reader, line):
    said = reader.run(line).split()
    assert (said[0].startswith("ATOLL_TOKEN=") and
            said[1:] == ["atoll-node", "join", f"127.0.0.1:{reader.port}"]), said
    reader.token = said[0].removeprefix("ATOLL_TOKEN=")


def invite_observer(reader, line):
    with open(os.open("token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(reader.run(line).split()[0].removeprefix("ATOLL_TOKEN=") + "\n")


def observe(reader, line):
    reader.start("observer", line + " --heartbeat-interval 1s")
    reader.wait("observer", "evaluation",
                lambda: os.path.exists("srv/atoll/eval-1/evaluations.jsonl"))
    reader.end("observer")


def accepted(reader):
    return reader.log("coordinator").count(" contribution_accepted ")


def join(reader, line):
    reader.start("site", line + " --batch-sequences 1 --heartbeat-interval 1s")
    reader.wait("site", "contribution", lambda: accepted(reader) >= 1)
    reader.end("site")


def go_on(reader, line):
    had = accepted(reader)
    reader.start("site", line)
    reader.wait("site", "contribution", lambda: accepted(reader) > had)


def status(reader, line):
    assert '"state": "training"' in reader.run(line)


def writes(reader, line):
    assert reader.run(line).startswith("It was ")


def leave(reader, line):
    reader.run(line)
    reader.end("site", signal_number=None)  # it has ended by itself
    go_on(reader, "atoll-node run --dir site")


def answers(*parts):
    def run(reader, line):
        said = reader.run(line)
        for part in parts:
            assert part in said, f"`{line}`: {part!r} is not in: {said[-800:]}"
    return run


def pause_and_resume(reader, line):
    reader.run(line)
    reader.run("ctl run resume")


def withdraw(reader, line):
    reader.run("ctl site invite --name eu-south")
    reader.run(line)


def revoke(reader, line):
    reader.run(line)
    reader.end("site", code=3, signal_number=None)  # it halts by itself: a person must look


def train_alone(reader, line):
    shutil.rmtree("model")
    reader.start("trainer", line + ("" if FULL else " --sequences 1 --length 64"))
    reader.wait("trainer", "steps",
                lambda: os.path.exists("run.csv") and open("run.csv").read().count("\n") > 2)
    reader.end("trainer")
    for name in ("run.state", "run.csv", "run.svg", "model/model.safetensors"):
        assert os.path.exists(name), f"no {name} after: {line}"


def shortened(line, flags):
    return line if FULL else line + flags


def local_federation(reader, line):
    reader.run(shortened(line, " --seconds 12") +
               f" --output lf --programs '{PROGRAMS}' --data build/data")


def on_a_terminal(reader, line):
    """The link's commands come from the pipe, the rest from the terminal, whose end of file ends
    it."""
    near, far = free_port(), free_port()
    line = line.replace("127.0.0.1:7401",
                        f"127.0.0.1:{near}").replace("127.0.0.1:7400", f"127.0.0.1:{far}")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(reader.environment)
        os.execvp("bash", ["bash", "-c", line])
    said, end = b"", time.monotonic() + WAIT_S
    while said.count(b"ok") < 2 and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 4096)
    os.write(terminal, b"\x04")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert b"ok port=%d" % near in said, said


STEPS = {  # in the pages' order
    "atollctl run example > run.yaml": edit_name,
    "atollctl run create /srv/atoll/run --manifest run.yaml --dry-run": dry_run,
    "atollctl run create /srv/atoll/run --manifest run.yaml": answers("next: atoll-coordinator"),
    "atoll-coordinator --dir /srv/atoll/run --listen 0.0.0.0:7400": serve,
    'ctl() { atollctl --keys /srv/atoll/run/keys --server coordinator.example:7400 "$@"; }': define,
    "ctl site invite --name eu-north": invite,
    "ATOLL_TOKEN=AQhl... atoll-node join coordinator.example:7400 --dir site --data text.txt": join,
    "atoll-node run --dir site": go_on,
    "atoll-node status --dir site": status,
    'atoll-node generate --dir site --prompt "It was "': writes,
    "atoll-node leave --dir site": leave,
    "ctl site invitations": answers("eu-north", "used"),
    "ctl site invite --withdraw eu-south": withdraw,
    "ctl site invite --name eval-1 --role observer": invite_observer,
    "atoll-node join coordinator.example:7400 --token-file token --dir /srv/atoll/eval-1 "
    "--data wiki.txt --data code.txt --heldout 100%": observe,
    "ctl run status": answers("tides", "version"),
    "ctl site list": answers("eu-north"),
    'ctl run pause --reason "moving racks"': pause_and_resume,
    'ctl site revoke --name eu-north --reason "key lost"': revoke,
    "ctl run rules": answers("merge.quorum"),
    'ctl run set merge.quorum 3 --reason "two more sites"': answers("merge.quorum"),
    'ctl run stop --reason "done"': answers("stopped"),
    "atollctl model export --dir /srv/atoll/run --output model": answers("exported"),
    "atollctl model export --dir /srv/atoll/run --output model --at best": answers("exported"),
    "atollctl ledger verify --dir /srv/atoll/run": answers("verified", "state root"),
    "atollctl ledger list --dir /srv/atoll/run": answers("genesis", "contribution", "stopped"),
    "atoll-trainer train text.txt --preset 4m --state run.state --save-every 100 "
    "--log run.csv --plot run.svg --export model": train_alone,
    "atoll-trainer eval model --text other.txt": answers("perplexity"),
    'atoll-trainer generate model --prompt "It was "': writes,
    "atoll-sim plan federation.yaml --plot plan.svg": answers("near", "far"),
    "atoll-sim train federation.yaml --data build/data/austen.txt --data build/data/bible.txt "
    "--csv curve.csv --svg curve.svg":
        lambda reader, line: reader.run(line),
    "atoll-sim faults --first 1 --seeds 100":
        lambda reader, line: reader.run(shortened(line, " --seeds 5")),
    "scripts/local-federation --wan federation.yaml --shape 300k --seconds 60": local_federation,
    "scripts/local-federation --wan federation.yaml --shape 300k --chaos 5": local_federation,
    "printf 'link a from 127.0.0.1:7401 to 127.0.0.1:7400\\nset a rtt 200ms up.rate 20Mbit/s\\n' | "
    "cat - /dev/tty | atoll-wan-proxy":
        on_a_terminal,
}


def in_order():
    """What is to be carried out, as the pages have it: code blocks, then commands that are all of a
    table's cell."""
    blocks, yaml, cells, _ = read_pages()
    first = next(i for i, cell in enumerate(cells) if cell.startswith("atoll-sim plan"))
    last = next(i for i, cell in enumerate(cells) if cell.startswith("printf "))
    return [without_comment(line) for line in blocks], cells[first:last + 1], yaml


def test_every_command_of_the_code_blocks_and_of_the_simulations_works_as_printed():
    blocks, table, yaml = in_order()
    lines = blocks + table
    assert lines == list(STEPS), "the pages and STEPS differ:\n" + "\n".join(
        sorted(set(lines) ^ set(STEPS)) or ["(in their order)"])
    with open("federation.yaml", "w") as file:
        file.write(yaml)
    reader = Reader()
    try:
        for line in lines:
            began = time.monotonic()
            STEPS[line](reader, line)
            print(f"    {time.monotonic() - began:5.1f} s  {line}", flush=True)
            if line == blocks[-1]:
                reader.end("coordinator")
    finally:
        reader.close()


# ---- those in running text ---------------------------------------------------------------------


def help_of(words):
    done = subprocess.run([os.path.join(PROGRAMS, words[0]), *words[1:], "--help"],
                          capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def check_program(words):
    """The verb and each flag are in the program's help."""
    if words[0] == "ctl":
        words[0] = "atollctl"
    verbs = [words[0]]
    for word in words[1:]:
        if word.startswith("-") or help_of(verbs + [word]) is None:
            break
        verbs.append(word)
    text = help_of(verbs)
    following = words[len(verbs)] if len(words) > len(verbs) else "-"
    assert ("\nCommands:\n" not in text or
            following.startswith("-")), f"{' '.join(verbs)} has no verb {following}"
    for word in words[1:]:
        if word.startswith("--"):
            flag = word.split("=")[0]
            assert re.search(re.escape(flag) + r"\b", text), f"{' '.join(verbs)} has no {flag}"


def check_script(words):
    path = os.path.join(ROOT, words[0])
    assert os.access(path, os.X_OK), f"{words[0]} is not there, or cannot be run"
    with open(path, errors="replace") as file:
        text = file.read()
    for word in words[1:]:
        assert not word.startswith("--") or word.split("=")[0] in text, f"{words[0]} has no {word}"


def check_target(words):
    done = subprocess.run(["make", "-n", "-C", ROOT, "--no-print-directory", *words[1:]],
                          capture_output=True, text=True,
                          env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")})
    assert done.returncode == 0, done.stderr[-500:]


def check_span(span):
    for part in re.split(r" && ", span):
        words = [word for word in shlex.split(part, comments=True) if word != "..."]
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words[0] == "make":
            check_target(words)
        elif words[0].startswith("scripts/"):
            check_script(words)
        elif words[0] in PROGRAM_NAMES:
            check_program(words)


def test_programs_verbs_flags_scripts_and_targets_in_the_text_exist():
    _, _, cells, spans = read_pages()
    wrong = []
    checked = set(cells + spans) - set(in_order()[1])
    assert len(checked) > 20, checked
    for span in sorted(checked):
        try:
            check_span(span)
        except AssertionError as error:
            wrong.append(f"`{span}`: {error}")
    assert not wrong, "\n".join(wrong)


def test_a_command_that_is_added_to_any_page_needs_a_step():
    """The comparison above can fail, whichever page the command is on."""
    global PAGES
    pages = PAGES
    try:
        for i, page in enumerate(pages):
            with open(os.path.join(ROOT, page)) as file:
                text = file.read()
            with open("page.md", "w") as file:
                file.write(text + "\n    ctl run planted\n")
            PAGES = pages[:i] + (os.path.abspath("page.md"),) + pages[i + 1:]
            blocks, table, _ = in_order()
            assert set(blocks + table) - set(STEPS) == {"ctl run planted"}, page
            assert len(blocks + table) == len(STEPS) + 1, page
    finally:
        PAGES = pages


def test_a_broken_command_is_found():
    """The checks above can fail."""
    for span in ("atollctl run statsu", "ctl run status --wotch 2s", "scripts/no-such-thing",
                 "make no-such-target",
                 "atoll-node status --dri site", "scripts/install-deps --no-such-flag"):
        try:
            check_span(span)
        except AssertionError:
            continue
        raise AssertionError(f"`{span}` passes")
    reader = Reader()
    try:
        reader.run("atollctl run exmaple > run.yaml")
    except AssertionError:
        return
    raise AssertionError("a command that fails passes")


if __name__ == "__main__":
    sys.exit(main(globals()))
