"""What tests written in Python share: running programs and looking at what they say, and a runner
that closes with `N passed, N failed`. A test is a function test_SENTENCE, run in an empty directory
of its own; one that cannot run here raises Skip, which tests/with_python and scripts/run-tests
repeat aloud: SKIPPED NAME - REASON."""
import os
import subprocess
import sys
import tempfile

ROOT = os.environ.get("ATOLL_ROOT") or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRAINER = os.path.join(os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build/release/bin"),
                       "atoll-trainer")
PREPARE = os.path.join(ROOT, "scripts/prepare-data")
SMALL = ("--vocabulary 256 --hidden 32 --layers 2 --heads 4 --kv-heads 2 --ffn 48 --context 64 "
         "--sequences 8 --length 32".split())
DEADLINE_S = 120 * int(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)


class Skip(Exception):
    pass


def run(*arguments, code=0):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True,
                          errors="replace", timeout=DEADLINE_S)
    assert done.returncode == code, (
        f"exit {done.returncode}, wanted {code}: {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout if code == 0 else done.stderr


def trainer(*arguments, code=0):
    return run(TRAINER, *arguments, code=code)


def need(package):
    try:
        return __import__(package)
    except ImportError:
        why = os.environ.get("ATOLL_TEST_PYTHON_REASON")
        raise Skip(f"{package} is not installed" + (f": {why}" if why else ""))


def write(name, content):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return name


def read(name):
    with open(name, "rb") as file:
        return file.read()


def text():
    return write("text", "".join(f"the {i % 13} small waves reach ring {i * i % 31} of the atoll.\n"
                                 for i in range(900)))


def main(names):
    """names: the globals() of the file with the tests. Its arguments choose some of them."""
    if not os.path.exists(TRAINER):
        subprocess.run(["make", "-s", "-C", ROOT, "trainer"], check=True)
    passed = failed = 0
    chosen = sys.argv[1:]
    for name, body in list(names.items()):
        if not name.startswith("test_") or (chosen and name[5:] not in chosen):
            continue
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                body()
                print("ok  ", name[5:])
                passed += 1
            except Skip as skip:
                print("SKIPPED", name[5:], "-", skip)
            except Exception as error:
                print("FAIL", name[5:], "-", type(error).__name__, error)
                failed += 1
            os.chdir("/")
    print(f"{passed} passed, {failed} failed")
    return failed > 0
