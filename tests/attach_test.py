"""What tests/attach_test.sh runs: training jobs that attach to a site's node, in federations of
real processes."""
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from federation_harness import ROOT, Federation, manifest  # noqa: E402
from script_test import main, need  # noqa: E402

PROGRAMS = os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build", "release", "bin")
LIBRARY = os.path.join(os.path.dirname(PROGRAMS), "lib", "libatoll.so.0")
SECONDS = 60 * float(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)
EXAMPLE = os.path.join(ROOT, "examples", "train_bytes.py")
SHAPE = "--hidden 32 --layers 2 --heads 2 --kv-heads 1 --ffn 64 --context 32 --batch 4".split()


class Job:
    """A training job of one process, with the site's directory in its environment."""

    def __init__(self, site, *command, **environment):
        self.log = os.path.join(os.path.dirname(site), os.path.basename(site) + ".trainer")
        self.environment = dict(os.environ, ATOLL_DIR=site, LIBATOLL=LIBRARY, OMP_NUM_THREADS="1",
                                PYTHONPATH=os.path.join(ROOT, "python"), **environment)
        self.command, self.handle = [sys.executable, *command], None

    def start(self):
        with open(self.log, "ab") as log:
            self.handle = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=log, env=self.environment)
        return self

    def kill(self):
        self.handle.kill()
        self.handle.wait()

    def text(self):
        with open(self.log) as file:
            return file.read()

    def wait(self, seconds=SECONDS):
        return self.handle.wait(seconds)


class Run:
    """A federation, ended with the block. Sites of NAMES train by themselves, `attached` waits for
    a job."""

    def __init__(self, *names, **keys):
        self.federation = Federation(PROGRAMS, "federation", manifest(**keys))
        self.federation.start_coordinator()
        self.jobs = []
        for name in names:
            self.federation.add_site(name, "--throttle", "8")
        self.site = self.federation.add_site("attached", "--attach")
        self.until("the node listens", lambda: " attach_at " in self.site.text())

    def until(self, what, condition, seconds=SECONDS):
        def both():
            for job in self.jobs:
                assert job.handle.poll() is None or condition(), f"{what}: {job.text()[-2000:]}"
            return condition()
        return self.federation.until(what, both, seconds)

    def job(self, *command, **environment):
        job = Job(self.site.directory, *command, **environment)
        self.jobs.append(job)
        return job.start()

    def merged(self):
        """Contributions of the attached site that the run has merged."""
        entries = self.federation.ledger()
        number = self.site.status().get("site")
        mine = {e["index"] for e in entries if e["kind"] == "contribution" and e["site"] == number}
        return [e for e in entries if e["kind"] == "step"
                and mine & {part["index"] for part in e["parts"]}]

    def end(self):
        """The run stops, and everybody with it; then the ledger must hold."""
        codes = self.federation.stop_run(SECONDS)
        assert set(codes.values()) == {0}, (codes, self.site.tail())
        wrong = self.federation.audit()
        assert not wrong, wrong

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for job in self.jobs:
            if job.handle.poll() is None:
                job.kill()
        self.federation.close()


def test_a_script_with_a_few_added_lines_trains_beside_two_built_in_sites():
    need("torch")
    with open(EXAMPLE) as file:
        added = [line for line in file if line.rstrip().endswith("# atoll")]
    assert len(added) <= 5, added
    with Run("one", "two", inner_steps=5) as run:
        job = run.job(EXAMPLE, run.federation.path("text.txt"), *SHAPE)
        run.until("its contributions are merged", lambda: len(run.site.receipts) >= 6)
        first = run.site.status()
        assert first["accepted"] > 0, first
        run.end()
        assert job.wait() == 0, job.text()
        assert len(run.merged()) >= 5
        losses = [float(loss) for loss in re.findall(r"loss (\S+)", job.text())]
        assert losses[0] > 5 > losses[-1], losses


if __name__ == "__main__":
    sys.exit(main(globals()))
