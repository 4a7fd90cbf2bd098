"""What tests/programs_test.sh runs: the programs at the command line, where a file system, an address, a proxy or the environment
is not as it should be. Real processes on 127.0.0.1."""
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from federation_harness import ROOT, Federation, manifest  # noqa: E402
from script_test import Skip, main  # noqa: E402

PROGRAMS = os.path.abspath(os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build", "release", "bin"))
SLOWDOWN = float(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)
WAIT_S = 30 * SLOWDOWN


def program(name):
    return os.path.join(PROGRAMS, name)


def call(name, *arguments, **more):
    """Its exit code, what it said on stdout and on stderr."""
    done = subprocess.run([program(name), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=60 * SLOWDOWN, **more)
    return done.returncode, done.stdout, done.stderr


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


# ---- reading needs no write access ----------------------------------------------------------------------------------------------


def as_another_user():
    """Arguments before a command that take root's rights from it; programs are copied to where everybody may run them."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        raise Skip("there is no setpriv")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def on_a_read_only_mount(path):
    """The same, where path is mounted read-only for that command alone."""
    probe = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"', path]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        raise Skip("mounting is not allowed here")
    return ["unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', path]


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
        done = subprocess.run(prefix + [os.path.join(programs, name), *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace", timeout=60 * SLOWDOWN, cwd=out)
        assert done.returncode == 0, f"{name} {' '.join(arguments)}: exit {done.returncode}: {done.stderr[-800:]}"
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
        contains(ask("atoll-node", "generate", "--dir", site, "--prompt", "It ", "--count", "8"), "It ")
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


# ---- a creation that failed does not block the next --------------------------------------------------------------------------------


def write(name, content):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return name


def checkpoint_of(manifest_text):
    """A checkpoint for that manifest, its digest, and the manifest that names it."""
    write("seed.yaml", manifest_text)
    good("atollctl", "run", "create", "seed-run", "--manifest", "seed.yaml")
    good("atollctl", "model", "export", "--dir", "seed-run", "--output", "seed-model")
    with open("seed-model/model.safetensors", "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    write("run.yaml", manifest_text + f"initial:\n  checkpoint_digest: {digest}\n")
    return "seed-model/model.safetensors"


def create(*arguments):
    return call("atollctl", "run", "create", "made", "--manifest", "run.yaml", *arguments)


def test_a_run_can_be_made_where_a_creation_failed():
    checkpoint = checkpoint_of(manifest())
    write("other.safetensors", b"something else")
    for wrong in ([], ["--checkpoint", "/nonexistent"], ["--checkpoint", "other.safetensors"]):
        for dry in ([], ["--dry-run"]):
            code, _, said = create(*wrong, *dry)
            assert code == 1, f"{wrong}: {said}"
            assert not os.path.exists("made"), f"{wrong} leaves {os.listdir('made')}"
    os.mkdir("made")  # a directory that somebody prepared stays, and stays empty
    assert create("--checkpoint", "other.safetensors")[0] == 1 and os.listdir("made") == []
    code, _, said = create("--checkpoint", checkpoint)
    assert code == 0, said
    contains(good("atollctl", "ledger", "verify", "--dir", "made", "--checkpoint", checkpoint), "verified")
    assert sorted(os.listdir("made")) == ["blobs", "keys", "manifest.yaml", "store", "uploads"]
    code, _, said = create("--checkpoint", checkpoint)
    assert code == 1
    contains(said, "holds a run already")


def test_a_creation_that_was_killed_is_no_run_and_is_begun_anew():
    write("run.yaml", manifest())
    create()
    os.rename("made", "whole")
    stages = ([], ["keys"], ["keys", "store", "blobs"], ["keys", "store", "blobs", "uploads", "manifest.yaml"])
    for stage in stages:
        shutil.rmtree("made", ignore_errors=True)
        os.mkdir("made")
        write("made/unfinished", "`atollctl run create` is making a run here\n")
        write("made/notes.txt", "not ours")
        for name in stage:
            (shutil.copytree if os.path.isdir("whole/" + name) else shutil.copy)("whole/" + name, "made/" + name)
        for command in (["ledger", "verify"], ["ledger", "list"], ["model", "export", "--output", "out"]):
            code, _, said = call("atollctl", *command, "--dir", "made")
            assert code == 1, said
            contains(said, "made holds no whole run", "begins it anew")
        code, _, said = call("atoll-coordinator", "--dir", "made", "--listen", "127.0.0.1:0")
        assert code == 1
        contains(said, "made holds no whole run")
        assert create()[0] == 0
        contains(good("atollctl", "ledger", "verify", "--dir", "made"), "verified")
        assert sorted(os.listdir("made")) == ["blobs", "keys", "manifest.yaml", "notes.txt", "store", "uploads"]


def test_a_creation_that_is_killed_at_any_moment_leaves_what_the_next_one_takes():
    write("run.yaml", manifest())
    for delay in range(0, 40, 4):
        shutil.rmtree("made", ignore_errors=True)
        process = subprocess.Popen([program("atollctl"), "run", "create", "made", "--manifest", "run.yaml"], stdout=subprocess.DEVNULL)
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
        both = [subprocess.Popen([program("atollctl"), "run", "create", "made", "--manifest", "run.yaml"], stdout=subprocess.PIPE,
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
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        raise Skip("mounting is not allowed here")
    return done


def test_a_run_that_cannot_fit_is_refused_before_anything_is_made_and_in_a_dry_run():
    huge = {"hidden: 32": "hidden: 65536", "layers: 2": "layers: 400", "ffn: 64": "ffn: 262144", "  heads: 2": "  heads: 512"}
    write("huge.yaml", reshaped(huge))
    for dry in ([], ["--dry-run"]):
        code, _, said = call("atollctl", "run", "create", "made", "--manifest", "huge.yaml", *dry)
        assert code == 1, said
        contains(said, "the coordinator takes", "TiB", "are free on this machine")
    write("wide.yaml", reshaped({"hidden: 32": "hidden: 512", "layers: 2": "layers: 6", "ffn: 64": "ffn: 2048"}))
    for dry in (["--dry-run"], []):
        done = on_a_small_disk(64, program("atollctl"), "run", "create", "small/a/b", "--manifest", "wide.yaml", *dry)
        assert done.returncode == 1, done.stdout
        contains(done.stderr, "needs", "for two snapshots", "its disk has 64.0 MiB left")
    code, said, _ = call("atollctl", "run", "create", "small/a/b", "--manifest", "wide.yaml", "--dry-run")
    assert code == 0 and not os.listdir("small")
    contains(said, "a snapshot", "are free")


def test_a_join_that_failed_does_not_block_the_next():
    with federation(sites=0) as made:
        invitation = made.invite("one")
        settings = ["--dir", "site", "--data", made.path("text.txt"), "--no-run"]
        assert call("atoll-node", "join", invitation["address"], "--token", "nonsense", *settings)[0] != 0
        token = invitation["token"]
        assert call("atoll-node", "join", invitation["address"], "--token", token[:40], *settings)[0] != 0
        good("atoll-node", "join", invitation["address"], "--token", token, *settings)
        good("atoll-node", "validate", "--dir", "site")


if __name__ == "__main__":
    sys.exit(main(globals()))
