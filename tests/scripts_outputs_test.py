"""What tests/scripts_outputs_test.sh runs: outputs of scripts are tried before the work, and
nothing of another's is touched."""
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time

from script_test import PREPARE, ROOT, Skip, main, need, read, run, write

TEXT = "the waves reach the ring of the atoll. " * 50


def tokens_of(directory):
    told = json.loads(read(os.path.join(directory, "prepare-data.json")))
    return b"".join(bytes(read(os.path.join(directory, name))[1024::2]) for name in told["files"])


def leftovers(directory="."):
    return sorted(name for name in os.listdir(directory) if "partial" in name or
                  name.startswith("."))


def test_a_directory_that_exists_is_filled_and_stays_the_same_directory():
    write("t.txt", TEXT)
    for output, make in (("plain", lambda: os.mkdir("plain")),
                         ("link", lambda: (os.mkdir("target"), os.symlink("target", "link"))),
                         ("volume", lambda: os.makedirs("volume/lost+found"))):
        make()
        os.chmod(output, 0o750)
        before = os.stat(output)
        run(PREPARE, "--output", output, "t.txt")
        after = os.stat(output)
        assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode), output
        assert (tokens_of(output).decode() == TEXT and not leftovers(output) and
                not leftovers()), output
    assert os.path.islink("link")
    os.mkdir("here")
    subprocess.run([PREPARE, "--output", ".", "../t.txt"], cwd="here", check=True,
                   stdout=subprocess.DEVNULL)
    assert tokens_of("here").decode() == TEXT
    os.symlink("nowhere", "dangling")
    assert "link to nothing" in run(PREPARE, "--output", "dangling", "t.txt", code=2)


def test_a_mount_point_is_filled():
    write("t.txt", TEXT)
    os.mkdir("volume")
    script = (f"mount -t tmpfs none volume && {PREPARE} --output volume t.txt && cp -r volume copy "
              "&& ls -A volume")
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        done = subprocess.run([*command, "sh", "-c", "mount -t tmpfs none volume"],
                              capture_output=True, text=True)
        if done.returncode == 0:
            run(*command, "sh", "-c", script)
            assert tokens_of("copy").decode() == TEXT and not leftovers("copy")
            return
    raise Skip(f"no mount namespace: {done.stderr.strip()}")


def test_what_is_somebody_elses_is_never_deleted():
    write("t.txt", TEXT)
    os.mkdir("out.partial")
    write("out.partial/thesis.txt", "mine")
    run(PREPARE, "--output", "out", "t.txt")
    assert read("out.partial/thesis.txt") == b"mine" and tokens_of("out").decode() == TEXT
    os.mkdir("full")
    write("full/thesis.txt", "mine")
    said = run(PREPARE, "--output", "full", "t.txt", code=2)
    assert "not empty" in said and os.listdir("full") == ["thesis.txt"], said
    run(PREPARE, "--output", "failed", "t.txt", write("latin.txt", b"\xff"), code=2)
    assert read("out.partial/thesis.txt") == b"mine" and not os.path.exists("failed")


HOOK = """
import os, runpy, sys, time
real = os.fsync
held = [True]
def fsync(handle):  # the first comes when the output is locked and nothing is read yet
    while held and not os.path.exists("go"):
        try:
            time.sleep(0.01)
        except BaseException:
            held.clear()
            raise
    real(handle)
os.fsync = fsync
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start_held(output, staging, *arguments):
    """prepare-data, held where it has begun until there is a file `go`."""
    write("hook.py", HOOK)
    process = subprocess.Popen([sys.executable, "hook.py", PREPARE, "--output", output, *arguments],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not is_locked(os.path.join(staging, ".prepare-data")):
        time.sleep(0.01)
    return process


def test_two_at_once_do_not_take_each_others_files():
    write("t.txt", TEXT)
    for output, staging in (("new", "new.partial"), ("there", "there/.prepare-data.partial")):
        if output == "there":
            os.unlink("go")
            os.mkdir(output)
        first = start_held(output, staging, "t.txt")
        said = run(PREPARE, "--output", output, "t.txt", code=2)
        assert "another process" in said and output in said, said
        assert is_locked(staging + "/.prepare-data"), "the second took the first's files"
        write("go", "")
        first.wait(60)
        assert first.returncode == 0 and tokens_of(output).decode() == TEXT and not leftovers()


def is_locked(path):
    try:
        with open(path, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def test_an_output_that_cannot_be_written_is_told_before_the_input_is_read():
    write("file", "in the way")
    for output in ("file", "file/below", "/proc/no/where", "x" * 300):
        said = run(PREPARE, "--output", output, write("late.txt", b"a" * 5000000 + b"\xff"), code=2)
        assert output in said and "late.txt" not in said and "Traceback" not in said, said
    assert read("file") == b"in the way"


def test_a_limit_of_file_size_is_named():
    write("t.txt", TEXT * 40)
    done = subprocess.run([PREPARE, "--output", "out", "t.txt"], capture_output=True, text=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE,
                                                                (20000, 20000)))
    assert (done.returncode == 2 and "ulimit -f" in done.stderr and
            "20000" in done.stderr), done.stderr
    assert not os.path.exists("out") and not leftovers(), "it left something"


def test_a_result_that_cannot_be_put_in_place_is_kept_and_the_same_command_ends_it():
    write("d.jsonl", "".join(json.dumps({"text": TEXT}) + "\n" for _ in range(3)))
    command = [PREPARE, "--output", "out", "--shard-tokens", "3000", "d.jsonl"]
    # what a kill between two moves leaves
    write("hook.py", f"""
import importlib.util, os, runpy, sys
renames = []
real = os.rename
def rename(a, b):
    renames.append(a)
    if len([r for r in renames if r.endswith('.bin')]) == 2:
        os.kill(os.getpid(), 9)
    real(a, b)
os.rename = rename
sys.argv = {command!r}
runpy.run_path({PREPARE!r}, run_name='__main__')
""")
    os.mkdir("out")
    killed = subprocess.run([sys.executable, "hook.py"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len([n for n in os.listdir("out")
                if n.endswith(".bin")]) == 1 and not os.path.exists("out/prepare-data.json")
    run(*command)
    assert tokens_of("out").decode() == TEXT * 3 and not leftovers("out")
    # another was put where the result should go while it was computed
    first = start_held("late", "late.partial", write("t.txt", TEXT))
    os.mkdir("late")
    write("late/thesis.txt", "mine")
    write("go", "")
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 2 and "late.partial" in said and "whole" in said, said
    assert os.listdir("late") == ["thesis.txt"] and tokens_of("late.partial").decode() == TEXT


def test_an_ending_by_a_signal_takes_back_what_was_begun():
    write("t.txt", TEXT)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start_held("out", "out.partial", "t.txt")
        process.send_signal(number)
        assert "Traceback" not in process.communicate(timeout=60)[1] and process.returncode == code
        assert not leftovers() and not os.path.exists("out")


def test_options_that_a_tokenizer_keeps_of_its_last_use_are_ignored_and_said():
    tokenizers = need("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train([write("text", TEXT)], tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    plain = tokenizer.encode(TEXT).ids
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A",
                                                                        special_tokens=[("<s>", 1)])
    for name, keep in (("truncation", lambda: tokenizer.enable_truncation(10)),
                       ("padding", lambda: tokenizer.enable_padding(length=4000)),
                       ("dropout", lambda: setattr(tokenizer.model, "dropout", 0.5))):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        keep()
        tokenizer.save("tokenizer.json")
        done = subprocess.run([sys.executable, PREPARE, "--output", name, "--tokenizer", ".",
                               "text"], capture_output=True, text=True)
        assert (done.returncode == 0 and name in done.stderr and
                "ignored" in done.stderr), done.stderr
        shard = read(f"{name}/shard-00000.bin")[1024:]
        assert [shard[i] | shard[i + 1] << 8 for i in range(0, len(shard), 2)] == plain, name


def test_a_byte_order_mark_is_no_text():
    mark = b"\xef\xbb\xbf"
    run(PREPARE, "--output", "text", write("t.txt", mark + TEXT.encode()))
    run(PREPARE, "--output", "lines",
        write("t.jsonl", mark + json.dumps({"text": TEXT}).encode() + b"\r\n"))
    assert tokens_of("text").decode() == TEXT and tokens_of("lines").decode() == TEXT


def test_holding_out_of_one_file_says_why_it_cannot_be():
    said = run(PREPARE, "--output", "out", "--heldout", 0.01, write("t.txt", TEXT), code=2)
    assert "--heldout" in said and "whole documents" in said and not os.path.exists("out"), said


def test_benchmarks_try_their_outputs_first():
    sys.path.insert(0, os.path.join(ROOT, "scripts"))
    from outputs import check_file
    check_file("new/folder/result.json")
    assert os.listdir("new/folder") == []
    write("file", "mine")
    os.mkdir("directory")
    for path in ("file/below.json", "directory"):
        try:
            check_file(path)
        except SystemExit as end:
            assert path in str(end.code) and "cannot be written" in str(end.code), end.code
        else:
            raise AssertionError(path)
    done = subprocess.run([os.path.join(ROOT, "bench/federation_vs_single"), "--output", "file",
                           "--programs", "/nonexistent", "--data", "."],
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode != 0 and "cannot be written" in done.stderr and
            "Traceback" not in done.stderr), done.stderr
    assert read("file") == b"mine"


def test_a_federations_directory_is_emptied_only_if_it_was_one():
    sys.path.insert(0, os.path.join(ROOT, "scripts"))
    from federation import Failure, Federation
    os.mkdir("home")
    write("home/thesis.txt", "mine")
    try:
        Federation("/nonexistent", "home", "")
    except Failure as failure:
        assert "home" in str(failure) and "not empty" in str(failure), failure
    else:
        raise AssertionError("it was taken")
    assert read("home/thesis.txt") == b"mine"
    done = subprocess.run([os.path.join(ROOT, "scripts/demo"), "--programs", "/nonexistent",
                           "--data", "/nonexistent", "--output", "home"],
                          capture_output=True, text=True)
    assert (done.returncode != 0 and "not empty" in done.stderr and
            "Traceback" not in done.stderr), done.stderr
    assert read("home/thesis.txt") == b"mine"


if __name__ == "__main__":
    sys.exit(main(globals()))
