"""What tests/attach_test.sh runs: training jobs that attach to a site's node, in federations of
real processes."""
import os
import random
import re
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from federation_harness import ROOT, Federation, manifest  # noqa: E402
from script_test import main, need  # noqa: E402

PROGRAMS = os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build", "release", "bin")
LIBRARY = os.path.join(os.path.dirname(PROGRAMS), "lib", "libatoll.so.0")
SECONDS = 60 * float(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)
TRAINER = os.path.join(ROOT, "tests", "attach_trainer.py")
TORCH = os.path.join(ROOT, "tests", "attach_torch.py")
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
        try:
            return self.handle.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError("the job does not end:\n" + self.text()[-2000:]) from None


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

    def contributions(self):
        number = self.site.status().get("site")
        return [e for e in self.federation.ledger()
                if e["kind"] == "contribution" and e["site"] == number]

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
        run.until("its contributions are in the ledger", lambda: len(run.site.receipts) >= 6)
        run.end()
        assert job.wait() == 0, job.text()
        assert len(run.merged()) >= 5
        losses = [float(loss) for loss in re.findall(r"loss (\S+)", job.text())]
        assert losses[0] > 5 > losses[-1], losses


def steps_of(path):
    return os.path.getsize(path) // len("step\n") if os.path.exists(path) else 0


def kill_at_random(mode, fragments):
    draw = random.Random(f"{mode} {fragments}")
    keys = {"merge__quorum": 1} if mode == "sparse" else {}
    with Run("one", mode=mode, fragments=fragments, inner_steps=4, sites=2, **keys) as run:
        job = run.job(TRAINER, "steps")
        for kill in range(12):
            before = len(run.site.receipts)
            run.until("it contributes", lambda: len(run.site.receipts) > before + draw.random())
            time.sleep(draw.random() * 0.2)
            if kill % 3 == 0:
                run.site.kill()
                run.site.start()
            else:
                job.kill()
                job.start()
        before = len(run.site.receipts)
        run.until("it goes on", lambda: len(run.site.receipts) >= before + 3)
        run.end()
        assert job.wait(10) == 0, job.text() + run.site.tail(40)
        sent = run.contributions()
        counted = sum(entry["inner_steps"] for entry in sent) / fragments
        assert len(sent) >= 10 and 0 < counted <= steps_of("steps"), (counted, steps_of("steps"))
        said = re.findall(r"trainer_left .*steps=(\d+) steps_lost=(\d+)", run.site.text())
        assert len(said) >= 3, said  # of eight kills, those that met a job at its steps


def test_kills_of_trainer_and_node_lose_and_double_nothing_in_sparse_mode():
    kill_at_random("sparse", 1)


def test_kills_of_trainer_and_node_lose_and_double_nothing_in_dense_mode_with_fragments():
    kill_at_random("dense", 3)


def first_payload(ranks):
    """Of a job of so many ranks, which all have the same data: steps and digest."""
    with Run(inner_steps=4, inner__dylu="false") as run:
        port = run.federation.port + 1 if run.federation.port < 65000 else 64999
        for rank in range(ranks):
            run.job(TORCH, run.federation.path("text.txt"), RANK=str(rank), WORLD_SIZE=str(ranks),
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        run.until("it contributes", lambda: run.site.receipts)
        first = run.contributions()[0]
        run.end()
        for job in run.jobs:
            assert job.wait() == 0, job.text()
        assert f"trainer_attached ranks={ranks}" in re.sub(r"run=\S+ site=\S+ ", "",
                                                           run.site.text())
        return first["inner_steps"], first["payload"]


def test_a_plain_module_and_ddp_on_two_ranks_publish_the_same_payload_bytes():
    need("torch")
    for attempt in range(4):  # the step that an order is for depends on when it is seen
        payloads = []
        for ranks in (1, 2):
            payloads.append(first_payload(ranks))
            shutil.move("federation", f"federation-{attempt}-{ranks}")
        if payloads[0][0] == payloads[1][0]:
            break
    assert payloads[0] == payloads[1], payloads


def test_a_value_that_is_not_finite_ends_the_job_with_its_tensor_and_rank_and_not_the_node():
    with Run("one", inner_steps=4) as run:
        job = run.job(TRAINER, "steps", "--nan", "30")
        run.jobs.remove(job)
        assert job.wait() == 0, job.text()
        wanted = 'tensor "model.embed_tokens.weight", rank 0: a parameter is not finite'
        assert wanted in job.text() and wanted in run.site.text().replace('\\"', '"'), job.text()
        before = len(run.site.receipts)
        run.job(TRAINER, "steps")
        run.until("another job goes on", lambda: len(run.site.receipts) >= before + 2)
        run.end()


if __name__ == "__main__":
    sys.exit(main(globals()))
