"""What tests/programs_test.sh runs: the programs at the command line, where a file system, an
address, a proxy or the environment is not as it should be. Real processes on 127.0.0.1."""
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from federation_harness import ROOT, Federation, manifest  # noqa: E402
from federation import Site  # noqa: E402
from script_test import Skip, main  # noqa: E402

PROGRAMS = os.path.abspath(os.environ.get("ATOLL_BIN") or
                           os.path.join(ROOT, "build", "release", "bin"))
SLOWDOWN = float(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)
WAIT_S = 30 * SLOWDOWN


def program(name):
    return os.path.join(PROGRAMS, name)


def call(name, *arguments, **more):
    """Its exit code, what it said on stdout and on stderr."""
    done = subprocess.run([program(name), *map(str, arguments)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True,
                          errors="replace", timeout=60 * SLOWDOWN, **more)
    return done.returncode, done.stdout, done.stderr


def token_file(token):
    path = os.path.abspath("token-" + hashlib.sha256(token.encode()).hexdigest()[:12])
    with open(path, "w") as file:
        file.write(token + "\n")
    return path


def by_file(token):
    return "--token-file", token_file(token)


def good(name, *arguments, **more):
    code, said, wrong = call(name, *arguments, **more)
    assert code == 0, f"{name} {' '.join(map(str, arguments))}: exit {code}: {wrong}"
    return said


def contains(text, *parts):
    for part in parts:
        assert part in text, f"{part!r} is not in: {text[-1500:]}"


@contextlib.contextmanager
def federation(sites=1, **keys):
    made = Federation(PROGRAMS, "federation", manifest(**keys))
    try:
        made.start_coordinator()
        for name in ("one", "two", "three")[:sites]:
            made.add_site(name, "--throttle", "4", "--checkpoint-interval", "1s")
        yield made
    finally:
        made.close()


def merged(made, versions):
    aim = made.version() + versions
    made.until(f"version {aim}", lambda: made.version() >= aim, WAIT_S)


# ---- reading needs no write access -------------------------------------------------------------


def as_another_user():
    """Arguments before a command that take root's rights from it; programs are copied to where
    everybody may run them."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        raise Skip("there is no setpriv")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def on_a_read_only_mount(path):
    """The same, where path is mounted read-only for that command alone."""
    probe = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"',
             path]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        raise Skip("mounting is not allowed here")
    return ["unshare", "-m", "sh",
            "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', path]


def readable(*paths):
    """For everybody to read, for nobody to write, as an auditor's copy is."""
    os.chmod(".", 0o755)
    for path in paths:
        subprocess.run(["chmod", "-R", "a+rX,a-w", path], check=True)


def everybodys_programs():
    os.makedirs("bin", exist_ok=True)
    for name in ("atollctl", "atoll-node"):
        shutil.copy(program(name), "bin")
    return os.path.abspath("bin")


def files_below(path):
    return sorted((os.path.join(folder, name), os.stat(os.path.join(folder, name)).st_mtime_ns)
                  for folder, _, names in os.walk(path) for name in names)


def read_everything(prefix, run, site, sequences=None):
    """Every command that only reads, on a run's directory and a site's."""
    programs, out = everybodys_programs(), os.path.abspath("out")
    os.makedirs(out, exist_ok=True)
    os.chmod(out, 0o777)

    def ask(name, *arguments):
        done = subprocess.run(prefix + [os.path.join(programs, name), *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace", timeout=60 * SLOWDOWN, cwd=out)
        assert done.returncode == 0, (
            f"{name} {' '.join(arguments)}: exit {done.returncode}: {done.stderr[-800:]}")
        return done.stdout

    if run:
        contains(ask("atollctl", "ledger", "verify", "--dir", run), "verified")
        contains(ask("atollctl", "ledger", "list", "--dir", run), "genesis", "contribution", "step")
        ask("atollctl", "model", "export", "--dir", run, "--output", os.path.join(out, "model"))
        assert os.path.exists(os.path.join(out, "model", "model.safetensors"))
        shutil.rmtree(os.path.join(out, "model"))
    if site:
        ask("atoll-node", "status", "--dir", site)
        contains(ask("atoll-node", "eval", "--dir", site, "--windows", "2"), "loss")
        contains(ask("atoll-node", "generate", "--dir", site, "--prompt", "It ", "--count", "8"),
                 "It ")
        # as README has it
        contains(ask("atoll-node", "generate", "--dir", site, "--prompt", "It was "), "It was ")
        ask("atoll-node", "export", "--dir", site, "--export", os.path.join(out, "site-model"))
        shutil.rmtree(os.path.join(out, "site-model"))


def copies(made):
    """Of the run and of its site, once both have stopped."""
    merged(made, 4)
    for process in (made.sites["one"], made.coordinator):
        assert process.end(WAIT_S) == 0, process.tail()
    shutil.copytree(made.run, "run-copy")
    shutil.copytree(made.sites["one"].directory, "site-copy")
    for name in ("run-copy/store/lock.mdb", "site-copy/journal/lock.mdb"):
        assert os.path.exists(name)
    readable("run-copy", "site-copy", "federation/text.txt")
    subprocess.run(["chmod", "a+X", "federation"], check=True)
    return os.path.abspath("run-copy"), os.path.abspath("site-copy")


def test_every_reading_command_works_on_a_copy_that_another_user_may_only_read():
    prefix = as_another_user()
    with federation() as made:
        run, site = copies(made)
        before = files_below(run) + files_below(site)
        read_everything(prefix, run, site)
        assert files_below(run) + files_below(site) == before, "reading has changed something"


def test_every_reading_command_works_on_a_copy_without_lock_files_and_makes_none():
    with federation() as made:
        run, site = copies(made)
        for name in ("store/lock.mdb", "store/writer.lock"):
            os.unlink(os.path.join(run, name))
        before = files_below(run)
        read_everything([], run, None)  # also as root, whose file would keep the owner out
        assert files_below(run) == before, "reading has changed something"


def test_every_reading_command_works_for_root_on_a_read_only_mount():
    with federation() as made:
        run, site = copies(made)
        read_everything(on_a_read_only_mount(run), run, None)
        read_everything(on_a_read_only_mount(site), None, site)


def beside_a_coordinator(prefix_of):
    with federation() as made:
        os.chmod(".", 0o755)
        merged(made, 4)
        for _ in range(4):
            merged(made, 1)
            read_everything(prefix_of(made.run), made.run, None)
            made.check_alive()


def test_a_run_is_read_on_a_read_only_mount_beside_a_coordinator_at_work():
    beside_a_coordinator(on_a_read_only_mount)


def test_a_run_is_read_by_who_may_read_all_and_write_nothing_beside_a_coordinator_at_work():
    if os.geteuid() != 0:
        raise Skip("only root can hand on that right")
    right = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if subprocess.run(as_another_user() + right + ["true"], capture_output=True).returncode != 0:
        raise Skip("setpriv cannot hand on the right to read everything")
    beside_a_coordinator(lambda run: as_another_user() + right)


# ---- keys that others may read, folders in which they may write ---------------------------------


def test_keys_and_folders_that_are_open_to_others_are_refused_with_the_cure():
    write("run.yaml", manifest())
    good("atollctl", "run", "create", "made", "--manifest", "run.yaml")
    ask = ("atollctl", "--keys", "made/keys", "--server", "127.0.0.1:1", "--timeout", "1s",
           "run", "status")
    serve = ("atoll-coordinator", "--dir", "made", "--listen", "127.0.0.1:0")
    for path, mode, cure, uses in (("made/keys/admin.key", 0o644, "chmod 600", (ask,)),
                                   ("made/keys/server.key", 0o640, "chmod 600", (serve,)),
                                   ("made/keys", 0o777, "chmod o-w", (ask, serve)),
                                   ("made", 0o777, "chmod o-w", (serve,))):
        before = os.stat(path).st_mode & 0o777
        os.chmod(path, mode)
        for use in uses:
            code, _, said = call(*use)
            assert code not in (0, None) and cure in said and path in said, (use, code, said)
        os.chmod(path, before)


def test_a_site_whose_steps_have_more_tokens_than_the_run_takes_does_not_start():
    with federation(sites=0, admission__max_step_tokens=64) as made:
        code, _, said = call("atoll-node", "join", f"127.0.0.1:{made.port}",
                             *by_file(made.invite("big")["token"]), "--dir", "big", "--data",
                             write("text.txt", b"the tide " * 9000), "--batch-sequences", "4")
        assert code not in (0, None), said
        contains(said, "max_step_tokens is 64", "batch.sequences")


# ---- a creation that failed does not block the next --------------------------------------------


def write(name, content):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return name


def checkpoint_of(manifest_text):
    """A checkpoint for that manifest, and the manifest that names it by its root."""
    write("seed.yaml", manifest_text)
    good("atollctl", "run", "create", "seed-run", "--manifest", "seed.yaml")
    good("atollctl", "model", "export", "--dir", "seed-run", "--output", "seed-model")
    with open("seed-run/manifest.yaml") as file:
        assert "initial.root: none" in file.read()
    good("atollctl", "run", "create", "named-run", "--manifest", "seed.yaml", "--from",
         "seed-model")
    with open("named-run/manifest.yaml") as file:
        root = dict(line.split(": ", 1) for line in file)["initial.root"]
    write("run.yaml", manifest_text + f"initial:\n  root: {root}")
    return "seed-model/model.safetensors"


def create(*arguments):
    return call("atollctl", "run", "create", "made", "--manifest", "run.yaml", *arguments)


def test_a_run_can_be_made_where_a_creation_failed():
    checkpoint = checkpoint_of(manifest())
    write("other.safetensors", b"something else")
    for wrong in ([], ["--from", "/nonexistent"], ["--from", "other.safetensors"]):
        for dry in ([], ["--dry-run"]):
            code, _, said = create(*wrong, *dry)
            assert code == 1, f"{wrong}: {said}"
            assert not os.path.exists("made"), f"{wrong} leaves {os.listdir('made')}"
    os.mkdir("made")  # a directory that somebody prepared stays, and stays empty
    assert create("--from", "other.safetensors")[0] == 1 and os.listdir("made") == []
    code, _, said = create("--from", checkpoint)
    assert code == 0, said
    contains(good("atollctl", "ledger", "verify", "--dir", "made", "--from", checkpoint),
             "verified")
    assert sorted(os.listdir("made")) == ["blobs", "checkpoint", "keys", "layout", "manifest.yaml",
                                          "store", "uploads"]
    code, _, said = create("--from", checkpoint)
    assert code == 1
    contains(said, "holds a run already")


def test_a_creation_that_was_killed_is_no_run_and_is_begun_anew():
    write("run.yaml", manifest())
    create()
    os.rename("made", "whole")
    stages = ([], ["keys"], ["keys", "store", "blobs"],
              ["keys", "store", "blobs", "uploads", "manifest.yaml"])
    for stage in stages:
        shutil.rmtree("made", ignore_errors=True)
        os.mkdir("made")
        write("made/unfinished", "`atollctl run create` is making a run here\n")
        write("made/notes.txt", "not ours")
        for name in stage:
            (shutil.copytree if os.path.isdir("whole/" + name)
             else shutil.copy)("whole/" + name, "made/" + name)
        for command in (["ledger", "verify"], ["ledger", "list"],
                        ["model", "export", "--output", "out"]):
            code, _, said = call("atollctl", *command, "--dir", "made")
            assert code == 1, said
            contains(said, "made has no complete run", "begins it anew")
        code, _, said = call("atoll-coordinator", "--dir", "made", "--listen", "127.0.0.1:0")
        assert code == 1
        contains(said, "made has no complete run")
        assert create()[0] == 0
        contains(good("atollctl", "ledger", "verify", "--dir", "made"), "verified")
        assert sorted(os.listdir("made")) == ["blobs", "keys", "manifest.yaml", "notes.txt",
                                              "store", "uploads"]


def test_a_creation_that_is_killed_at_any_moment_leaves_what_the_next_one_takes():
    write("run.yaml", manifest())
    for delay in range(0, 40, 4):
        shutil.rmtree("made", ignore_errors=True)
        process = subprocess.Popen([program("atollctl"), "run", "create", "made",
                                    "--manifest", "run.yaml"], stdout=subprocess.DEVNULL)
        time.sleep(delay / 1000)
        process.kill()
        process.wait()
        code, _, said = create()
        assert code == 0 or "holds a run already" in said, said  # it had just been done
        contains(good("atollctl", "ledger", "verify", "--dir", "made"), "verified")
        assert not os.path.exists("made/unfinished")


def test_two_creations_at_once_make_one_run():
    write("run.yaml", manifest())
    for _ in range(5):
        shutil.rmtree("made", ignore_errors=True)
        both = [subprocess.Popen([program("atollctl"), "run", "create", "made",
                                  "--manifest", "run.yaml"], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True) for _ in range(4)]
        said = [p.communicate()[1] for p in both]
        assert sorted(p.returncode for p in both) == [0, 1, 1, 1], said
        for text in filter(None, said):
            assert "another process" in text or "holds a run already" in text, text
        contains(good("atollctl", "ledger", "verify", "--dir", "made"), "verified")


def test_a_users_own_file_in_the_way_of_a_run_is_kept():
    os.mkdir("made")
    shutil.copy(write("run.yaml", manifest() + "# my notes\n"), "made/manifest.yaml")
    code, _, said = create()
    assert code == 1
    contains(said, "made/manifest.yaml is in the way")
    with open("made/manifest.yaml") as file:
        contains(file.read(), "# my notes")
    assert os.listdir("made") == ["manifest.yaml"]


def reshaped(changes):
    text = manifest()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def on_a_small_disk(megabytes, *command):
    script = f'mkdir -p small && mount -t tmpfs -o size={megabytes}m none small && exec "$@"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *command],
                          capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        raise Skip("mounting is not allowed here")
    return done


def test_a_run_that_cannot_fit_is_refused_before_anything_is_made_and_in_a_dry_run():
    huge = {"hidden: 32": "hidden: 65536", "layers: 2": "layers: 400", "ffn: 64": "ffn: 262144",
            "  heads: 2": "  heads: 512"}
    write("huge.yaml", reshaped(huge))
    for dry in ([], ["--dry-run"]):
        code, _, said = call("atollctl", "run", "create", "made", "--manifest", "huge.yaml", *dry)
        assert code == 1, said
        contains(said, "the coordinator takes", "TiB", "are free on this machine")
    write("wide.yaml",
          reshaped({"hidden: 32": "hidden: 512", "layers: 2": "layers: 6", "ffn: 64": "ffn: 2048"}))
    for dry in (["--dry-run"], []):
        done = on_a_small_disk(64, program("atollctl"), "run", "create", "small/a/b",
                               "--manifest", "wide.yaml", *dry)
        assert done.returncode == 1, done.stdout
        contains(done.stderr, "needs", "for two snapshots", "its disk has 64.0 MiB left")
    code, said, _ = call("atollctl", "run", "create", "small/a/b", "--manifest", "wide.yaml",
                         "--dry-run")
    assert code == 0 and not os.listdir("small")
    contains(said, "a snapshot", "are free")


def joining(address, token, name):
    return ["atoll-node", "join", address, *by_file(token), "--dir", name]


def test_a_join_that_failed_does_not_block_the_next():
    with federation(sites=0) as made:
        invitation = made.invite("one")
        settings = ["--dir", "site", "--data", made.path("text.txt"), "--no-run"]
        assert call("atoll-node", "join", invitation["address"], *by_file("nonsense"),
                    *settings)[0] != 0
        token = invitation["token"]
        assert call("atoll-node", "join", invitation["address"], *by_file(token[:40]),
                    *settings)[0] != 0
        good("atoll-node", "join", invitation["address"], *by_file(token), *settings)
        good("atoll-node", "validate", "--dir", "site")


def test_the_newest_invitation_of_a_name_holds_until_it_is_withdrawn():
    with federation(sites=0) as made:
        ctl = ["atollctl", "--keys", os.path.join(made.run, "keys"),
               "--server", f"127.0.0.1:{made.port}"]

        def states():
            told = json.loads(good("atollctl", "--format", "json", *ctl[1:], "site", "invitations"))
            assert all(entry["made_ms"] > 0 for entry in told), told
            return [(entry["name"], entry["state"]) for entry in told]

        address = f"127.0.0.1:{made.port}"
        old, new, other = (made.invite(name)["token"] for name in ("one", "one", "two"))
        settings = ["--data", made.path("text.txt"), "--no-run"]
        assert states() == [("one", "replaced"), ("one", "open"), ("two", "open")]
        code, _, said = call(*joining(address, old, "old"), *settings)
        assert code == 3, said
        contains(said, "join refused (void)", "a newer invitation of that name")
        contains(good(*ctl, "site", "invite", "--withdraw", "two"), "withdrawn: two")
        code, _, said = call(*ctl, "site", "invite", "--withdraw", "two")
        assert code == 1, said
        contains(said, "no invitation of that name is open")
        code, _, said = call(*joining(address, other, "other"), *settings)
        assert code == 3, said
        contains(said, "join refused (void)", "the admin withdrew")
        good(*joining(address, new, "site"), *settings)
        good(*ctl, "site", "revoke", "--name", "one")
        code, _, said = call(*joining(address, old, "old"), *settings)
        assert code == 3, said
        text = good(*ctl, "site", "invitations")
        assert [line.split()[:2] for line in text.splitlines()[1:]] == [
            ["one", "replaced"], ["one", "used"], ["two", "withdrawn"]], text
        for wrong in (["--name", "x", "--withdraw", "y"], []):
            assert call(*ctl, "site", "invite", *wrong)[0] == 2


def test_a_token_comes_from_the_environment_a_file_or_stdin_and_never_from_the_command_line():
    with federation(sites=0) as made:
        address, settings = f"127.0.0.1:{made.port}", ["--data", made.path("text.txt"), "--no-run"]

        def join(name, *more, token=None, stdin=subprocess.DEVNULL):
            variables = dict(os.environ, **({"ATOLL_TOKEN": token} if token else {}))
            done = subprocess.run([program("atoll-node"), "join", address, "--dir", name, *settings,
                                   *more], stdin=stdin, capture_output=True, text=True,
                                  timeout=60 * SLOWDOWN, env=variables)
            assert not token or token not in done.stdout + done.stderr
            return done.returncode, done.stderr

        tokens = {name: made.invite(name)["token"] for name in ("one", "two", "three")}
        for more in (["--token", tokens["one"]], ["--token=" + tokens["one"]]):
            code, said = join("one", *more)
            assert code == 2 and tokens["one"] not in said, said
            contains(said, "--token is not a flag", "ATOLL_TOKEN")
        code, said = join("one")
        assert code == 2, said
        contains(said, "no invitation", "ATOLL_TOKEN", "--token-file")
        path = token_file(tokens["two"])
        code, said = join("one", "--token-file", path, token=tokens["one"])
        assert code == 2, said
        contains(said, "both give a token")
        for content, because in (("", "nothing"), ("a b", "more than one word")):
            code, said = join("one", "--token-file", write("wrong", content))
            assert code == 2, said
            contains(said, "the token's file wrong: there is " + because)
        assert join("one", "--token-file", "nowhere")[0] == 2
        assert not os.path.exists("one")
        assert join("one", token=tokens["one"])[0] == 0
        assert join("two", "--token-file", path)[0] == 0
        reader, writer = os.pipe()
        os.write(writer, tokens["three"].encode() + b"\n")
        os.close(writer)
        assert join("three", "--token-file", "-", stdin=reader)[0] == 0
        os.close(reader)
        for name in tokens:
            for folder, _, files in os.walk(name):
                for file in files:
                    with open(os.path.join(folder, file), "rb") as content:
                        assert tokens[name].encode() not in content.read(), file


def test_a_token_is_wiped_from_the_environment_that_the_kernel_shows():
    with federation(sites=0) as made:
        token = made.invite("one")["token"]
        process = subprocess.Popen(
            [program("atoll-node"), "join", f"127.0.0.1:{made.port}", "--dir", "one", "--data",
             made.path("text.txt"), "--threads", "1"], stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=dict(os.environ, ATOLL_TOKEN=token))
        try:
            made.until("site", lambda: os.path.exists("one/site.json"), WAIT_S)
            with open(f"/proc/{process.pid}/limits") as file:
                assert re.search(r"^Max core file size +0 +0 ", file.read(), re.M)
            try:
                with open(f"/proc/{process.pid}/environ", "rb") as file:
                    shown = file.read()
            except PermissionError:  # except to root, it is not shown at all
                return
            assert b"ATOLL_TOKEN=" in shown and token.encode() not in shown
        finally:
            process.terminate()
            process.wait(WAIT_S)


# ---- addresses ---------------------------------------------------------------------------------

WRONG_ADDRESSES = {  # and what is said of them
    "coordinator.example": "has no port: write coordinator.example:7400",
    "127.0.0.1": "has no port: write 127.0.0.1:7400",
    "127.0.0.1:99999": "a port is a number from",
    "https://coordinator.example:7400": "begins with https://",
    "::1": "an IPv6 address stands in brackets: [::1]:7400",
    "[::1]": "has no port: write [::1]:7400",
    "[::1:7400": "the bracket is not closed",
    ":7400": "names no host",
    "coordinator.example: 7400": "has a space",
    "coordinator.example:7400/run": "has a path",
    "": "is empty",
}


def test_a_wrong_address_is_refused_at_once_by_every_program_and_setting():
    with federation(sites=0) as made:
        invitation = made.invite("one")
        good("atoll-node", "join", invitation["address"], *by_file(invitation["token"]),
             "--dir", "site", "--data", made.path("text.txt"), "--no-run")
        keys = os.path.join(made.run, "keys")
        token = made.invite("two")["token"]
        for address, because in WRONG_ADDRESSES.items():
            uses = [("atoll-node", "join", address, *by_file(token), "--dir", "other"),
                    ("atoll-node", "run", "--dir", "site", "--address", address),
                    ("atollctl", "--keys", keys, "--server", address, "run", "status"),
                    ("atollctl", "--keys", keys, "--server", f"127.0.0.1:{made.port}", "site",
                     "invite", "--name", "three", "--address", address),
                    ("atoll-coordinator", "--dir", made.run, "--listen", address),
                    ("atoll-coordinator", "--dir", made.run, "--listen", "127.0.0.1:0",
                     "--advertise", address),
                    ("atoll-wan-proxy", "--wan", "plan.yaml", "--to", address)]
            for use in uses:
                code, _, said = call(*use)
                assert code == 2, f"{use}: exit {code}: {said}"
                contains(said, because)
            for variable, use in (("ATOLL_SERVER", ("atollctl", "--keys", keys, "run", "status")),
                                  ("ATOLL_ADDRESS", ("atoll-node", "run", "--dir", "site")),
                                  ("ATOLL_ADVERTISE", ("atoll-coordinator", "--dir", made.run,
                                                       "--listen", "127.0.0.1:0"))):
                code, _, said = call(*use, env=dict(os.environ, **{variable: address}))
                assert code == 2, f"{variable}={address}: exit {code}: {said}"
                contains(said, variable + ": ", because)
            code, _, said = call("atoll-node", "run", "--dir", "site", "--config",
                                 write("settings.yaml", f"address: {json.dumps(address)}\n"))
            assert code == 2, said
            contains(said, "settings.yaml:1", because)
        assert not os.path.exists("other")


def test_a_coordinator_is_reached_by_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        raise Skip(f"there is no IPv6 here: {error}") from error
    with federation(sites=0) as made:
        assert made.coordinator.end(WAIT_S) == 0
        os.unlink(made.path("port"))
        made.coordinator.arguments = [program("atoll-coordinator"), "--dir", made.run,
                                      "--listen", "[::1]:0", "--port-file", made.path("port")]
        made.coordinator.start()
        made.until("a port", lambda: os.path.exists(made.path("port")), WAIT_S)
        with open(made.path("port")) as file:
            address = f"[::1]:{int(file.read())}"
        ctl = ["atollctl", "--keys", os.path.join(made.run, "keys"), "--server", address]
        said = good(*ctl, "site", "invite", "--name", "one").split()
        assert said[3] == address, said
        token = said[0].removeprefix("ATOLL_TOKEN=")
        good("atoll-node", "join", address, *by_file(token), "--dir", "site",
             "--data", made.path("text.txt"), "--no-run")
        contains(good(*ctl, "site", "list"), "one")


def test_an_invitation_says_where_the_coordinator_is_reached_from_outside():
    with federation(sites=0) as made:
        ctl = ["atollctl", "--keys", os.path.join(made.run, "keys"),
               "--server", f"127.0.0.1:{made.port}", "site", "invite"]
        code, said, wrong = call(*ctl, "--name", "one")
        assert code == 0
        contains(wrong, f"127.0.0.1:{made.port} leads to this machine only", "--address",
                 "--advertise")
        code, said, wrong = call(*ctl, "--name", "two", "--address", "outside.example:7400")
        assert code == 0 and wrong == "", wrong
        contains(said, "ATOLL_TOKEN=", " atoll-node join outside.example:7400\n")
        code, said, _ = call("atollctl", "--format", "json", *ctl[1:], "--name", "three")
        assert json.loads(said)["this_machine_only"] is True
        assert made.coordinator.end(WAIT_S) == 0
        made.start_coordinator("--advertise", "advertised.example:7411")
        code, said, wrong = call(*ctl, "--name", "four")
        assert code == 0 and wrong == "", wrong
        contains(said, " atoll-node join advertised.example:7411\n")
        code, said, _ = call("atollctl", "--format", "json", *ctl[1:], "--name", "five")
        assert (json.loads(said)["address"] == "advertised.example:7411" and
                json.loads(said)["this_machine_only"] is False)


# ---- a forward proxy ---------------------------------------------------------------------------


class ForwardProxy:
    """HTTP CONNECT on 127.0.0.1. Names that do not resolve lead to `target`: what got there has
    come through here."""

    def __init__(self, target, answer=None, credentials=None, silent=False):
        self.target, self.answer, self.silent, self.asked, self.tunnels = (target, answer, silent,
                                                                           [], 0)
        self.wanted = credentials and "Basic " + base64.b64encode(credentials.encode()).decode()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = [self.listener]
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.open.append(client)
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(4096)
                if not piece:
                    return
                head += piece
            lines = head.decode().split("\r\n")
            self.asked.append(lines[0])
            authorization = [line.split(":", 1)[1].strip() for line in lines
                             if line.lower().startswith("proxy-authorization:")]
            if self.silent:
                return
            if self.answer is not None:
                client.sendall(self.answer)
                client.close()
                return
            if self.wanted and authorization != [self.wanted]:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: "
                               b"Basic\r\nContent-Length: 0\r\n\r\n")
                client.close()
                return
            server = socket.create_connection(self.target)
            self.open.append(server)
            self.tunnels += 1
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=self.copy, args=(server, client), daemon=True).start()
            self.copy(client, server)

    @staticmethod
    def copy(source, sink):
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


BEHIND = "coordinator.invalid:7400"  # resolves nowhere
NO_PROXIES = {name: "" for name in ("grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy",
                                    "no_grpc_proxy", "no_proxy", "NO_PROXY")}


def outside(**variables):
    return dict(os.environ, **NO_PROXIES | variables)


def join_behind(made, name, *settings, **more):
    token = made.invite(name)["token"]
    return call("atoll-node", "join", BEHIND, *by_file(token), "--dir", name,
                "--data", made.path("text.txt"), "--no-run",
                "--heartbeat-interval", "1s", "--retry-first", "100ms", *settings, **more)


def test_a_site_joins_and_trains_through_a_forward_proxy_with_credentials():
    with federation(sites=0) as made, ForwardProxy(("127.0.0.1",
                                                    made.port), credentials="me:s3cret@x") as proxy:
        url = f"http://me:s3cret%40x@127.0.0.1:{proxy.port}"
        code, said, wrong = join_behind(made, "one", "--proxy", url, "--threads", "1",
                                        env=outside())
        assert code == 0, wrong
        assert "s3cret" not in said + wrong
        assert os.stat("one/node.yaml").st_mode & 0o777 == 0o600  # the password is in it
        site = Site("one", [program("atoll-node"), "run", "--dir", "one"], "one.log",
                    os.path.abspath("one"))
        made.sites["one"] = site
        site.start()
        made.until("receipts", lambda: len(site.receipts) >= 2, WAIT_S)
        keys = os.path.join(made.run, "keys")
        contains(good("atollctl", "--keys", keys, "--server", BEHIND, "--proxy", url, "run",
                      "status", env=outside()), "version")
        assert site.end(WAIT_S) == 0, site.tail()
        assert (set(proxy.asked) == {f"CONNECT {BEHIND} HTTP/1.0"} or
                set(proxy.asked) == {f"CONNECT {BEHIND} HTTP/1.1"}), proxy.asked
        assert "s3cret" not in site.text()


def test_the_environments_proxy_is_used_unless_it_is_excepted():
    with federation(sites=0) as made, ForwardProxy(("127.0.0.1", made.port)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        here = f"127.0.0.1:{made.port}"
        ask = ["atollctl", "--keys", os.path.join(made.run, "keys"), "--timeout", "2s", "--server"]
        for variable in ("grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy"):
            before = proxy.tunnels
            good(*ask, BEHIND, "run", "status", env=outside(**{variable: url}))
            assert proxy.tunnels == before + 1, variable
        for variable in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
            before = proxy.tunnels
            good(*ask, here, "run", "status",
                 env=outside(https_proxy=url, **{variable: "127.0.0.1"}))
            assert proxy.tunnels == before, variable
        good(*ask, here, "--proxy", "none", "run", "status", env=outside(https_proxy=url))
        # another machine's: not for 127.0.0.1
        good(*ask, here, "run", "status", env=outside(https_proxy="http://proxy.invalid:3128"))
        assert proxy.tunnels == before
        good(*ask, BEHIND, "run", "status", env=outside(ATOLL_PROXY=url))
        assert proxy.tunnels == before + 1
        code, _, said = call(*ask, BEHIND, "run", "status",
                             env=outside(https_proxy="socks5://127.0.0.1:1080"))
        assert code == 1
        contains(said, "https_proxy: a proxy by socks5 is not supported")
        code, _, said = call(*ask, BEHIND, "--proxy", "https://127.0.0.1:1", "run", "status",
                             env=outside())
        assert code == 2
        contains(said, "--proxy: a proxy by https is not supported")


REFUSALS = [(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
             ("answers 407", "user name and a password")),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", ("answers 403", "does not allow this address")),
            (b"HTTP/1.1 405 Method Not Allowed\r\n\r\n",
             ("answers 405", "does not allow this address")),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", ("answers 400", "a proxy for HTTP CONNECT"))]


def test_each_way_in_which_a_proxy_fails_has_its_own_message():
    with federation(sites=0) as made:
        target = ("127.0.0.1", made.port)
        ask = ["atollctl", "--keys", os.path.join(made.run, "keys"), "--timeout", "2s",
               "--server", BEHIND, "run", "status", "--proxy"]

        def fails(proxy_port, *parts, user="me:s3cret@"):
            code, _, said = call(*ask, f"http://{user}127.0.0.1:{proxy_port}", env=outside())
            assert code == 1, said
            contains(said, BEHIND, f"the proxy http://127.0.0.1:{proxy_port}", *parts)
            assert "s3cret" not in said

        for answer, parts in REFUSALS:
            with ForwardProxy(target, answer) as proxy:
                fails(proxy.port, *parts)
                code, _, said = join_behind(made, f"site-{answer[9:12].decode()}",
                                            "--proxy", f"http://127.0.0.1:{proxy.port}",
                                            env=outside())
                assert code == 3, said  # at once: asking again is of no use
                contains(said, "the coordinator cannot be reached", *parts)
                assert len(proxy.asked) <= 4
        for code in (502, 503, 504):
            with ForwardProxy(target, b"HTTP/1.1 %d No\r\n\r\n" % code) as proxy:
                fails(proxy.port, f"answers {code}", "does not reach the coordinator")
        with ForwardProxy(target, credentials="me:other") as proxy:
            fails(proxy.port, "answers 407")
        with ForwardProxy(target, b"") as proxy:
            fails(proxy.port, "check the proxy's address")
        with ForwardProxy(target, b"SSH-2.0-OpenSSH_9.2\r\n") as proxy:
            fails(proxy.port, "check the proxy's address")
        with ForwardProxy(target, silent=True) as proxy:
            fails(proxy.port, "no progress for 2000 ms", "answers")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        fails(port, "check the proxy's address")  # nobody is there
        with ForwardProxy(target) as proxy, socket.create_server(("127.0.0.1", 0)) as other:
            proxy.target = other.getsockname()  # a way to somebody who does not speak TLS
            threading.Thread(target=lambda: other.accept()[0].sendall(b"220 mail\r\n"),
                             daemon=True).start()
            fails(proxy.port, "through")


# ---- what cannot be written --------------------------------------------------------------------


def test_stdout_that_cannot_be_written_is_a_failure_and_is_named():
    if not os.path.exists("/dev/full"):
        raise Skip("there is no /dev/full")
    with federation() as made:
        merged(made, 2)
        site = made.sites["one"].directory
        ctl = ["atollctl", "--keys", os.path.join(made.run, "keys"),
               "--server", f"127.0.0.1:{made.port}"]
        uses = [ctl + ["run", "status"], ctl + ["--format", "json", "site", "list"],
                ctl + ["site", "list"], ctl + ["run", "status", "--watch", "10ms"],
                ["atollctl", "run", "example"], ["atollctl", "--help"],
                ["atollctl", "--print-config", "run", "example"],
                ["atollctl", "ledger", "list", "--dir", made.run],
                ["atollctl", "ledger", "verify", "--dir", made.run],
                ["atollctl", "run", "create", "made", "--manifest", made.path("manifest.yaml")],
                ["atoll-node", "status", "--dir", site], ["atoll-node", "--version"],
                ["atoll-node", "validate", "--dir", site],
                ["atoll-node", "run", "--example-config"], ["atoll-coordinator", "--version"],
                ["atoll-trainer", "--help"], ["atoll-wan-proxy", "--help"], ["atoll-sim", "--help"],
                ["atoll-sim", "faults", "--first", "1", "--seeds", "1"]]
        for use in uses:
            for how in ("full", "closed"):
                with open("/dev/full", "w") as full:
                    done = subprocess.run([program(use[0]), *use[1:]], stdin=subprocess.DEVNULL,
                                          stderr=subprocess.PIPE, text=True,
                                          stdout=full, timeout=60 * SLOWDOWN,
                                          preexec_fn=(lambda: os.close(1)) if how == "closed"
                                          else None)
                assert done.returncode == 1, (
                    f"{use} with stdout {how}: exit {done.returncode}: {done.stderr}")
                contains(done.stderr, f"{use[0]}: stdout cannot be written")
                shutil.rmtree("made", ignore_errors=True)
        # With number 1 free, the next file that is opened would get it, and be printed into.
        subprocess.run([program("atollctl"), "run", "create", "made",
                        "--manifest", made.path("manifest.yaml")],
                       stderr=subprocess.DEVNULL, preexec_fn=lambda: os.close(1))
        contains(good("atollctl", "ledger", "verify", "--dir", "made"), "verified")


def test_watching_ends_when_its_reader_goes_away():
    with federation(sites=0) as made:
        watch = [program("atollctl"), "--keys", os.path.join(made.run, "keys"),
                 "--server", f"127.0.0.1:{made.port}", "run", "status", "--watch", "20ms"]
        process = subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        contains(process.stdout.readline(), "tiny")
        process.stdout.close()
        assert process.wait(WAIT_S) == 1
        contains(process.stderr.read(), "stdout cannot be written", "Broken pipe")
        process.stderr.close()


def test_a_metrics_file_that_cannot_be_written_is_refused_before_anything_else():
    with federation(sites=0) as made:
        invitation = made.invite("one")
        settings = ["--dir", "site", "--data", made.path("text.txt"), "--heartbeat-interval", "1s",
                    "--threads", "1"]
        join = ["atoll-node", "join", invitation["address"], *by_file(invitation["token"]),
                *settings]
        os.mkdir("taken")
        for wrong, because in (("nowhere/m.prom", "its directory nowhere: No such file"),
                               ("taken", "it is a directory"),
                               (made.path("text.txt") + "/m", "text.txt")):
            code, _, said = call(*join, "--metrics-file", wrong)
            assert code == 1, said
            contains(said, "metrics-file: ", wrong, because)
            assert not os.path.exists("site")  # and the token is as good as before
        os.mkdir("there")
        good(*join, "--metrics-file", "there/m.prom", "--no-run")
        for verb in ("validate", "run"):
            code, _, said = call("atoll-node", verb, "--dir", "site",
                                 "--metrics-file", "nowhere/m.prom")
            assert code == 1, said
            contains(said, "metrics-file: nowhere/m.prom cannot be written")


def test_a_file_that_is_written_every_second_is_complained_of_once():
    with federation(sites=0) as made:
        invitation = made.invite("one")
        os.mkdir("there")
        good("atoll-node", "join", invitation["address"], *by_file(invitation["token"]),
             "--dir", "site", "--data", made.path("text.txt"), "--threads", "1",
             "--metrics-file", "there/m.prom", "--no-run")
        site = Site("one", [program("atoll-node"), "run", "--dir", "site"], "one.log",
                    os.path.abspath("site"))
        made.sites["one"] = site
        site.start()
        made.until("metrics", lambda: os.path.exists("there/m.prom"), WAIT_S)
        with open("there/m.prom") as file:
            page = file.read()
        for name, kind in (("version", "gauge"), ("linked", "gauge"), ("ready", "gauge"),
                           ("staleness_versions", "gauge"), ("loss_nats", "gauge"),
                           ("trainer_tokens_total", "counter"), ("trainer_steps_total", "counter"),
                           ("contributions_accepted_total", "counter"),
                           ("contributions_refused_total", "counter"),
                           ("sent_bytes_total", "counter"), ("received_bytes_total", "counter"),
                           ("compute_seconds_total", "counter"), ("lost_seconds_total", "counter")):
            contains(page, f"# HELP atoll_node_{name} ",
                     f"# TYPE atoll_node_{name} {kind}\natoll_node_{name}{{run_id=\"")
        assert page.count('cause="') == 7 and "dropped" not in page, page
        os.rename("there", "gone")
        made.until("a complaint", lambda: " metrics_file " in site.text(), WAIT_S)
        stamp = site.status()["stamp_ms"]
        made.until("some seconds", lambda: site.status().get("stamp_ms", 0) > stamp + 4000, WAIT_S)
        complaints = [line for line in site.text().splitlines() if " metrics_file " in line]
        assert len(complaints) == 1 and "state=failing" in complaints[0], complaints
        os.rename("gone", "there")
        made.until("an all-clear", lambda: "state=written" in site.text(), WAIT_S)
        assert site.end(WAIT_S) == 0


# ---- what others put into the environment ------------------------------------------------------

SERVICE = {"ATOLL_COORDINATOR_SERVICE_HOST": "10.0.0.1", "ATOLL_COORDINATOR_SERVICE_PORT": "7400",
           "ATOLL_COORDINATOR_SERVICE_PORT_GRPC": "7400",
           "ATOLL_COORDINATOR_PORT": "tcp://10.0.0.1:7400",
           "ATOLL_COORDINATOR_PORT_7400_TCP": "tcp://10.0.0.1:7400",
           "ATOLL_COORDINATOR_PORT_7400_TCP_PROTO": "tcp",
           "ATOLL_COORDINATOR_PORT_7400_TCP_PORT": "7400",
           "ATOLL_COORDINATOR_PORT_7400_TCP_ADDR": "10.0.0.1"}


def test_a_kubernetes_service_named_like_us_keeps_no_program_from_starting():
    with federation(sites=0) as made:
        uses = [("atollctl", "ledger", "list", "--dir", made.run),
                ("atoll-node", "run", "--print-config"),
                ("atoll-coordinator", "--dir", made.run, "--print-config"),
                ("atoll-trainer", "train", write("text.txt", b"the tide " * 9000), "--steps", "1",
                 "--length", "32", "--sequences", "1", "--preset", "300k")]
        for use in uses:
            good(*use, env=dict(os.environ, **SERVICE))
            code, _, said = call(*use, env=dict(os.environ, ATOLL_COORDINATOR_HOST="10.0.0.1"))
            assert code == 2, f"{use}: exit {code}: {said}"
            contains(said, "unknown environment variable ATOLL_COORDINATOR_HOST")
        # these read no variables
        for use in (("atoll-sim", "faults", "--seed", "1"), ("atoll-wan-proxy", "--help")):
            good(*use, env=dict(os.environ, **SERVICE))


# ---- an invitation is not spent on what cannot be ----------------------------------------------


def test_a_token_is_not_spent_before_the_data_is_known_to_fit_the_run():
    with federation(sites=0) as made:
        invitation = made.invite("one")
        write("empty.txt", b"")
        write("short.txt", b"too short")
        write("tokens.bin", struct.pack("<IIQ", 20240520, 1, 4) + bytes(1008) +
              struct.pack("<4H", 1, 2, 3, 50000))
        os.mkdir("folder")
        for data in ("typo.txt", "empty.txt", "short.txt", "tokens.bin", "folder"):
            for more in ([], ["--no-run"]):
                code, _, said = call("atoll-node", "join", invitation["address"],
                                     *by_file(invitation["token"]), "--dir", "first",
                                     "--data", data, *more)
                assert code == 1, f"{data}: exit {code}: {said}"
                contains(said, data, "nothing has been joined, and the invitation is not used up")
                assert not os.path.exists("first/site.json")
        # Another key may use it still.
        good("atoll-node", "join", invitation["address"], *by_file(invitation["token"]),
             "--dir", "second", "--data", made.path("text.txt"), "--no-run")
        assert [entry["kind"] for entry in made.ledger()] == ["genesis", "site_invited",
                                                              "site_added"]
        code, _, said = call("atoll-node", "join", invitation["address"],
                             *by_file(invitation["token"]), "--dir", "first",
                             "--data", made.path("text.txt"), "--no-run")
        assert code == 3
        contains(said, "join refused (used)")


OVERTAKEN = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>
/* The first content-addressed file that is opened for reading: not before it is gone. */
int openat(int directory, const char *name, int flags, ...) {
    static int (*real)(int, const char *, int, ...);
    static int waited;
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
    if (!waited && strlen(name) == 65 && name[2] == '/' && (flags & O_ACCMODE) == O_RDONLY) {
        waited = 1;
        for (int i = 0; i < 6000 && faccessat(directory, name, F_OK, 0) == 0; i++) usleep(10000);
    }
    return real(directory, name, flags, mode);
}
int openat64(int directory, const char *name, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return openat(directory, name, flags, mode);
}
"""


def test_what_reads_a_running_site_is_not_led_astray_by_its_next_checkpoint():
    if not shutil.which("gcc"):
        raise Skip("no gcc, to hold the reader where the checkpoint overtakes it")
    with open("overtaken.c", "w") as file:
        file.write(OVERTAKEN)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "overtaken.so", "overtaken.c", "-ldl"],
                   check=True)
    with federation() as made:
        merged(made, 2)
        site = made.sites["one"].directory
        limit = time.monotonic() + WAIT_S
        while not any(names for _, _, names in os.walk(os.path.join(site, "state"))):
            assert time.monotonic() < limit, "no checkpoint"
            time.sleep(0.05)
        for arguments in (["generate", "--prompt", "It was "], ["eval", "--windows", "2"],
                          ["export", "--export", "model"]):
            said = good("atoll-node", *arguments, "--dir", site,
                        env=dict(os.environ, LD_PRELOAD=os.path.abspath("overtaken.so")))
            assert said, arguments


if __name__ == "__main__":
    sys.exit(main(globals()))
