"""What tests/attach_test.sh runs: training jobs that attach to a site's node, in federations of
real processes."""
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import attach_trainer  # noqa: E402
from federation_harness import ROOT, Federation, manifest  # noqa: E402
from script_test import main, need  # noqa: E402

PROGRAMS = os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build", "release", "bin")
LIBRARY = os.path.join(os.path.dirname(PROGRAMS), "lib", "libatoll.so.0")
SECONDS = 60 * float(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)
TRAINER = os.path.join(ROOT, "tests", "attach_trainer.py")
TORCH = os.path.join(ROOT, "tests", "attach_torch.py")
HF = os.path.join(ROOT, "tests", "attach_hf.py")
EXAMPLE = os.path.join(ROOT, "examples", "train_bytes.py")
SHAPE = "--hidden 32 --layers 2 --heads 2 --kv-heads 1 --ffn 64 --context 32 --batch 4".split()


class Job:
    """A training job of one process, with the site's directory in its environment."""

    def __init__(self, site, *command, **environment):
        self.log = os.path.join(os.path.dirname(site), os.path.basename(site) + ".trainer" +
                                environment.get("RANK", ""))
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
    victims = ()  # of kill_and_sum, beside node and ranks

    def __init__(self, *names, attached=True, options=(), **keys):
        self.federation = Federation(PROGRAMS, "federation", manifest(**keys))
        self.federation.start_coordinator()
        self.jobs = []
        for name in names:
            self.federation.add_site(name, "--throttle", "8")
        if not attached:
            self.site = self.federation.add_site("built-in", "--throttle", "2", sequences=8)
            return
        self.site = self.federation.add_site("attached", "--attach", *options)
        self.until("the node listens", lambda: " attach_at " in self.site.text())

    def until(self, what, condition, seconds=SECONDS):
        def both():
            for job in self.jobs:
                assert job.handle.poll() is None or condition(), f"{what}: {job.text()[-2000:]}"
            return condition()
        return self.federation.until(what, both, seconds)

    def job(self, *command, directory=None, **environment):
        job = Job(directory or self.site.directory, *command, **environment)
        self.jobs.append(job)
        return job.start()

    def directory_of(self, _):
        """Where a rank of the job attaches."""
        return self.site.directory

    def receipts(self):
        """How many there are by now; what the site has logged and nobody has read counts too, or
        they would look as if they came later."""
        self.site.read()
        return len(self.site.receipts)

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
        run.until("its contributions are in the ledger", lambda: run.receipts() >= 6)
        run.until("it says its loss", lambda: len(re.findall(r" loss ", job.text())) >= 2)
        run.end()
        assert job.wait() == 0, job.text()
        assert len(run.merged()) >= 5
        losses = [float(loss) for loss in re.findall(r"loss (\S+)", job.text())]
        assert losses[0] > 5 > losses[-1], losses


def test_a_trainer_of_transformers_trains_with_one_callback_and_goes_on_from_its_checkpoint():
    need("transformers")
    need("accelerate")
    with Run("one", inner_steps=5) as run:
        job = run.job(HF, run.federation.path("text.txt"), "output", "--save", "40")
        run.until("it saves", lambda: "saved 40" in job.text())
        before = run.receipts()
        run.until("it contributes", lambda: run.receipts() >= before + 1)
        restart(run, job)
        run.until("it goes on", lambda: run.receipts() >= before + 4)
        run.end()
        assert job.wait() == 0, job.text()
        said = re.findall(r"trainer_attached .*steps=(\d+) kept=(\d+) lost=(\d+) ahead=(\d+)",
                          run.site.text())
        assert len(said) == 2 and int(said[1][0]) >= 40 and said[1][2] == "0", said
        losses = [float(x) for x in re.findall(r"'loss': '?([\d.]+)", job.text())]
        assert losses[0] > losses[-1] + 0.3, losses
        tokens = [entry["tokens"] / entry["inner_steps"] for entry in run.contributions()]
        assert all(abs(one - 4 * 2 * 32) < 1 for one in tokens), tokens


def steps_of(path):
    """The numbers of the steps that were trained, some of them more than once."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [int(line) for line in file.read().split("\n")[:-1]]


def read_floats(path):
    """The tensors of a safetensors file, by name."""
    with open(path, "rb") as file:
        data = file.read()
    size = int.from_bytes(data[:8], "little")
    found = {}
    for name, tensor in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            first, last = tensor["data_offsets"]
            assert tensor["dtype"] == "F32", tensor
            found[name] = struct.unpack(f"<{(last - first) // 4}f",
                                        data[8 + size + first:8 + size + last])
    return found


def exported(run, output, *options):
    run.federation.call("atollctl", "model", "export", "--dir", run.federation.run, "--output",
                        output, *options)
    found = read_floats(os.path.join(output, "model.safetensors"))
    return [value for name, _ in attach_trainer.tensors() for value in found[name]]


class Group:
    """A job of so many ranks; where one ends, all are started again, with the next generation."""

    def __init__(self, run, ranks, *command):
        self.run, self.ranks, self.command, self.generation = run, ranks, command, 0
        self.jobs = []
        self.start()

    def start(self):
        self.run.jobs = []
        self.jobs = [self.run.job(TRAINER, *self.command, RANK=str(rank),
                                  directory=self.run.directory_of(rank),
                                  WORLD_SIZE=str(self.ranks),
                                  TORCHELASTIC_RESTART_COUNT=str(self.generation))
                     for rank in range(self.ranks)]
        self.generation += 1

    def kill(self, rank):
        self.jobs[rank].kill()
        self.again()

    def again(self):
        for job in self.jobs:
            if job.handle.poll() is None:
                job.kill()
        self.start()

    def look(self):
        """As a launcher would."""
        if any(job.handle.poll() not in (None, 0) for job in self.jobs):
            self.again()


# plain sums: theta -= delta, so each step of the job that is in the run is a 1 in its place
SUMS = dict(mode="dense", sites=1, codec__kind="fp32", outer__learning_rate=1, outer__momentum=0,
            outer__period=1, admission__clip_factor=1000, admission__norm_bound=1e9)


def in_the_model(run, first):
    """The steps that are; none is there twice, nor is anything else."""
    trained, last = steps_of("steps"), exported(run, "last")
    assert len(set(trained)) == max(trained) + 1 <= len(last), max(trained)
    difference = [b - a for a, b in zip(first, last)]
    wrong = [(at, d) for at, d in enumerate(difference)
             if min(abs(d), abs(d - 1)) > 1e-3 or (d > 0.5 and at > max(trained))]
    assert not wrong, (wrong[:10], max(trained))
    return [at for at, d in enumerate(difference) if d > 0.5]


def one_loss(lose, *options, inner_steps=4):
    """A job trains, LOSE(run, job, first receipts) has something die, and the job goes on. Returns
    the steps that are in the model, and what the node said of the session after."""
    with Run(inner_steps=inner_steps, inner__dylu="false", **SUMS) as run:
        first = exported(run, "first", "--at", "0")
        job = run.job(TRAINER, "steps", *options)
        run.until("it contributes", lambda: run.receipts() >= 2)
        lose(run, job)
        before = run.receipts()
        run.until("it goes on", lambda: run.receipts() >= before + 3)
        run.end()
        assert job.wait() == 0, job.text()
        there = in_the_model(run, first)
        said = re.findall(r"trainer_attached .*steps=(\d+) kept=(\d+) lost=(\d+) ahead=(\d+)",
                          run.site.text())
        assert len(said) == 2, said
        return there, dict(zip(("steps", "kept", "lost", "ahead"), map(int, said[1])))


def restart(run, job, delete=None):
    job.kill()
    if delete:
        os.unlink(delete)
    job.start()


def after_save(run, job, steps):
    """The job's next checkpoint, and so many steps after it."""
    saved = job.text().count("saved at")
    run.until("it saves", lambda: job.text().count("saved at") > saved)
    number = int(re.findall(r"saved at (\d+)", job.text())[-1])
    run.until("it trains on", lambda: max(steps_of("steps")) >= number + steps)


def test_a_job_trains_on_while_its_node_restarts_and_loses_no_step():
    def lose(run, _):
        run.site.kill()
        trained = len(steps_of("steps"))
        run.federation.until("it trains alone", lambda: len(steps_of("steps")) > trained + 20,
                             SECONDS, alive=False)
        run.site.start()
    there, said = one_loss(lose)
    assert there == list(range(len(there))) and said["lost"] == 0 < said["kept"], (said, there[-1])


def test_a_job_that_comes_back_with_its_checkpoint_goes_on_and_loses_nothing_published():
    def lose(run, job):
        after_save(run, job, 5)
        restart(run, job)
    options = ("--checkpoint", "saved", "--every", "150")
    there, said = one_loss(lose, *options, inner_steps=120)
    assert there == list(range(len(there))) and said["lost"] == 0, (said, there[-1])
    assert said["kept"] > 0 and said["ahead"] == 0, said


def test_what_was_published_after_the_checkpoint_is_trained_again_and_not_published_again():
    def lose(run, job):
        after_save(run, job, 0)
        before = run.receipts()
        run.until("it contributes", lambda: run.receipts() >= before + 3)
        restart(run, job)
    there, said = one_loss(lose, "--checkpoint", "saved", "--every", "100")
    missing = sorted(set(range(there[-1])) - set(there))
    assert said["ahead"] > 0 and len(missing) <= 8, (said, missing)


def test_a_job_without_its_checkpoint_loads_the_newest_model_and_is_told_what_is_lost():
    def lose(run, job):
        restart(run, job)
    there, said = one_loss(lose, inner_steps=60)
    missing = set(range(there[-1])) - set(there)
    assert said["kept"] == 0 and 0 < len(missing) <= said["lost"] + 1, (said, missing)


def test_a_damaged_state_is_refused_with_a_clear_word_and_the_node_lives_on():
    with Run(inner_steps=40, inner__dylu="false", **SUMS) as run:
        first = exported(run, "first", "--at", "0")
        job = run.job(TRAINER, "steps", "--checkpoint", "saved", "--every", "25")
        run.until("it contributes", lambda: run.receipts() >= 2)
        after_save(run, job, 5)
        job.kill()
        with open("saved") as file:
            saved = json.load(file)
        whole = bytes.fromhex(saved["state"]["state"])
        for at in (4, 20, 31, 40, 70, len(whole) - 1, None):  # a bit of that byte; or it is cut off
            state = bytearray(whole[:-1])
            if at is not None:
                state = bytearray(whole)
                state[at] ^= 0x40
            saved["state"]["state"] = state.hex()
            with open("saved", "w") as file:
                json.dump(saved, file)
            said = len(job.text())
            job.start()  # it tries again and again
            run.until(f"it is refused: {at}", lambda: re.search("state is damaged|are no state",
                                                                job.text()[said:]))
            job.kill()
        os.unlink("saved")
        before = run.receipts()
        job.start()
        run.until("it goes on", lambda: run.receipts() >= before + 2)
        run.end()
        assert job.wait() == 0, job.text()
        in_the_model(run, first)


def of_another_site(state):
    """The same state, of another site, with the sum that belongs to it."""
    state, total = bytearray(state), 0xcbf29ce484222325
    state[56] ^= 1
    state[48:56] = bytes(8)
    for byte in state:
        total = (total ^ byte) * 0x100000001b3 % 2 ** 64
    return bytes(state[:48]) + total.to_bytes(8, "little") + bytes(state[56:])


def test_a_checkpoint_of_another_site_is_not_taken_and_the_job_is_told():
    def lose(run, job):
        after_save(run, job, 5)
        job.kill()
        with open("saved") as file:
            saved = json.load(file)
        saved["state"]["state"] = of_another_site(bytes.fromhex(saved["state"]["state"])).hex()
        with open("saved", "w") as file:
            json.dump(saved, file)
        job.start()
        run.until("it says so", lambda: "is of another run or site" in job.text())
    _, said = one_loss(lose, "--checkpoint", "saved", "--every", "25", inner_steps=40)
    assert said["kept"] == said["ahead"] == said["steps"] == 0, said


def kill_and_sum(kills, ranks, fragments, seed, make=Run):
    """SIGKILL at random moments; then the run's model must be what it was at the start and a 1 for
    each step that was published, none of which twice."""
    draw = random.Random(seed)
    with make(fragments=fragments, inner_steps=4, inner__dylu="false", **SUMS) as run:
        first = exported(run, "first", "--at", "0")
        group = Group(run, ranks, "steps", "--checkpoint", "saved")

        def more(count):
            before = run.receipts()

            def come():
                group.look()
                return run.receipts() >= before + count
            return come
        for _ in range(kills):
            run.federation.until("it contributes", more(draw.choice((0, 1, 1, 2, 3))), SECONDS)
            time.sleep(draw.random() * 0.3)
            who = draw.choice(("node", "rank", "rank", "job", "both", "forgets") +
                              ("victim", "victim") * bool(run.victims))
            if who == "victim":
                victim = draw.choice(run.victims)
                victim.kill()
                victim.start()
            if who in ("node", "both"):
                run.site.kill()
            if who in ("rank", "both"):
                group.kill(draw.randrange(ranks))
            elif who in ("job", "forgets"):
                if who == "forgets" and os.path.exists("saved"):
                    os.unlink("saved")
                group.again()
            if who in ("node", "both"):
                run.site.start()
        run.federation.until("it goes on", more(3 * fragments), SECONDS)
        run.end()
        for job in group.jobs:
            assert job.wait() == 0, job.text()[-2000:] + run.site.tail(40)
        there = in_the_model(run, first)
        told = sum(entry["inner_steps"] for entry in run.contributions())
        text = run.site.text()
    trained, published = steps_of("steps"), len(there)
    resumed = re.findall(r"trainer_attached .*kept=(\d+) lost=(\d+) ahead=(\d+)", text)
    print(f"{kills} kills: {max(trained) + 1} steps, {published} in the model, ledger says "
          f"{told / fragments:.0f}, trained {len(trained)}, sessions {len(resumed)}, "
          f"went on {sum(int(k) > 0 for k, _, _ in resumed)}, "
          f"behind {sum(int(a) > 0 for _, _, a in resumed)}, "
          f"lost {sum(int(n) for _, n, _ in resumed)}", flush=True)
    assert told / fragments <= len(trained) and published <= len(set(trained))


def kill_at_random(mode, fragments):
    draw = random.Random(f"{mode} {fragments}")
    keys = {"merge__quorum": 1} if mode == "sparse" else {}
    with Run("one", mode=mode, fragments=fragments, inner_steps=4, sites=2, **keys) as run:
        job = run.job(TRAINER, "steps", "--pause", "0.002")
        for kill in range(12):
            before = run.receipts()
            run.until("it contributes", lambda: run.receipts() > before + draw.random())
            time.sleep(draw.random() * 0.2)
            if kill % 3 == 0:
                run.site.kill()
                run.site.start()
            else:
                job.kill()
                job.start()
        before = run.receipts()
        run.until("it goes on", lambda: run.receipts() >= before + 3)
        run.end()
        assert job.wait(10) == 0, job.text() + run.site.tail(40)
        sent = run.contributions()
        counted = sum(entry["inner_steps"] for entry in sent) / fragments
        assert len(sent) >= 10 and 0 < counted <= len(steps_of("steps")), counted
        said = re.findall(r"trainer_left .*steps=(\d+) steps_lost=(\d+)", run.site.text())
        assert len(said) >= 3, said  # of eight kills, those that met a job at its steps


def test_kills_of_ranks_jobs_and_node_sum_up_and_publish_no_step_twice():
    kill_and_sum(int(os.environ.get("ATOLL_TEST_KILLS") or 14), 2, 1, "one fragment")


def test_kills_with_three_fragments_sum_up_and_publish_no_step_twice():
    kill_and_sum(int(os.environ.get("ATOLL_TEST_KILLS") or 8), 1, 3, "fragments")


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
        assert re.search(f"trainer_attached .*ranks={ranks} ", run.site.text())
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


def test_data_beside_attach_is_refused_before_the_site_joins():
    with Run() as run:
        token = run.federation.token_file(run.federation.invite("idle")["token"])
        done = run.federation.call("atoll-node", "join", f"127.0.0.1:{run.federation.port}",
                                   "--dir", "idle", "--token-file", token, "--attach", "--data",
                                   run.federation.path("text.txt"), check=False)
        assert done.returncode != 0 and "has no effect beside --attach" in done.stderr, done
        assert not os.path.exists("idle/key"), os.listdir("idle")


def test_h_is_the_runs_newest_for_a_job_that_attaches():
    with Run(inner_steps=4, inner__dylu="false") as run:
        job = run.job(TRAINER, "steps", "--pause", "0.02")
        run.until("it knows H", lambda: " h=4\n" in job.text())
        run.federation.ctl("run", "set", "inner.inner_steps", "9", "--reason", "a test")
        run.until("it knows the new H", lambda: " h=9\n" in job.text())
        run.end()


def test_a_value_that_is_not_finite_ends_the_job_with_its_tensor_and_rank_and_not_the_node():
    with Run("one", inner_steps=4) as run:
        job = run.job(TRAINER, "steps", "--nan", "30")
        run.jobs.remove(job)
        assert job.wait() != 0, job.text()
        wanted = 'tensor "model.embed_tokens.weight", rank 0: a parameter is not finite'
        assert wanted in job.text() and wanted in run.site.text().replace('\\"', '"'), job.text()
        before = run.receipts()
        run.job(TRAINER, "steps")
        run.until("another job goes on", lambda: run.receipts() >= before + 2)
        run.end()


if __name__ == "__main__":
    sys.exit(main(globals()))
