"""What tests/limits_test.sh runs: many files, little memory and half a processor, with the real
programs."""
import os
import re
import resource
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from federation_harness import Federation, manifest  # noqa: E402
from script_test import DEADLINE_S, ROOT, Skip, main, write  # noqa: E402

PROGRAMS = os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build/release/bin")
TRAINER, NODE = os.path.join(PROGRAMS, "atoll-trainer"), os.path.join(PROGRAMS, "atoll-node")
SHAPE = ("--vocabulary 256 --hidden 32 --layers 1 --heads 2 --kv-heads 1 --ffn 64 --context 32 "
         "--length 32 --device cpu".split())


def run(*arguments, prepare=None):
    return subprocess.run([str(a) for a in arguments], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace",
                          timeout=DEADLINE_S, preexec_fn=prepare)


def few_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def test_more_shards_than_the_soft_limit_of_descriptors_are_opened_by_every_program():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 2000:
        raise Skip(f"the hard limit of descriptors is {hard} here")
    shards = [write(f"shard-{i:04}.txt",
                    f"shard {i} has a few words of text in it, enough for one sequence. " * 4)
              for i in range(1100)]
    done = run(TRAINER, *SHAPE, "--steps", "1", *shards, prepare=few_descriptors)
    assert done.returncode == 0, done.stderr
    federation = Federation(PROGRAMS, os.path.abspath("federation"), manifest())
    federation.start_coordinator()
    site = federation.add_site("a", start=False).directory
    federation.close()
    done = run(NODE, "validate", "--dir", site,
               *[word for shard in shards for word in ("--data", shard)], prepare=few_descriptors)
    assert done.returncode == 0, done.stderr


def test_a_hard_limit_of_descriptors_is_named():
    shards = [write(f"shard-{i:04}.txt",
                    f"shard {i} has a few words of text in it, enough for one sequence. " * 4)
              for i in range(100)]
    done = run(TRAINER, *SHAPE, "--steps", "1", *shards,
               prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    assert done.returncode not in (0, None) and "ulimit -n" in done.stderr, done.stderr


class Group:
    """A control group of our own below this process's, of version 1 or 2."""

    def __init__(self, controller, version_1, version_2):
        """The limit, as (file, value) of either version."""
        self.path = None
        with open("/proc/self/cgroup") as file:
            paths = {name: path for line in file for _, names, path in [line.strip().split(":", 2)]
                     for name in names.split(",")}
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split() for line in file]
        for fields in mounts:
            kind, options = fields[fields.index("-") + 1], fields[-1]
            version2 = kind == "cgroup2"
            if not version2 and not (kind == "cgroup" and controller in options.split(",")):
                continue
            own = paths.get("" if version2 else controller)
            if own is None:
                continue
            path = os.path.join(fields[4] + own.rstrip("/"), f"atoll-test-{os.getpid()}")
            try:
                os.mkdir(path)
            except OSError:
                continue
            self.path = path
            try:
                name, value = version_2 if version2 else version_1
                if not os.path.exists(os.path.join(path, name)):
                    raise OSError("the controller is not here")
                with open(os.path.join(path, name), "w") as file:
                    file.write(value)
                return
            except OSError:
                self.remove()
        raise Skip(f"no control group with a limit of {controller} can be made here")

    def enter(self):
        with open(os.path.join(self.path, "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))

    def remove(self):
        if self.path:
            os.rmdir(self.path)
            self.path = None


def test_a_corpus_that_was_just_copied_does_not_count_as_memory_in_use():
    size = 300 << 20
    group = Group("memory", ("memory.limit_in_bytes", str(size)), ("memory.max", str(size)))
    try:
        copy = "dd if=/dev/zero of=copied bs=1M count=400 status=none"
        write("text", "some text to train on, again and again. " * 2000)
        done = run("bash", "-c", f"{copy} && exec '{TRAINER}' --preset 1m --device cpu --length 32 "
                   "--sequences 2 --steps 1 text", prepare=group.enter)
        assert done.returncode == 0, done.stderr
        free = re.search(r"takes .* of the ([0-9.]+ \w+) that are free", done.stderr).group(1)
        assert (free.endswith("MiB") and
                float(free.split()[0]) <= size / 2**20), f"the group's limit is not seen: {free}"
        done = run(TRAINER, "--preset", "50m", "--device", "cpu", "--steps", "1", "text",
                   prepare=group.enter)
        assert (done.returncode == 1 and
                "are free" in done.stderr), f"the limit is not seen: {done.stderr}"
    finally:
        os.path.exists("copied") and os.unlink("copied")
        group.remove()


def test_a_quota_of_processor_time_bounds_the_default_of_threads():
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip("there is one processor")
    group = Group("cpu", ("cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000"))
    try:
        federation = Federation(PROGRAMS, os.path.abspath("federation"), manifest())
        federation.start_coordinator()
        site = federation.add_site("a", start=False, sequences=4)
        with open(os.path.join(site.directory, "node.yaml")) as file:
            text = re.sub(r"threads: .*\n", "", file.read())
        write(os.path.join(site.directory, "node.yaml"), text)
        try:
            site.start(preexec=group.enter)
            federation.until("it starts", lambda: " started " in site.text(), DEADLINE_S)
            assert re.search(r'device="cpu \w+ x1"', site.text()), site.text()
        finally:
            federation.close()
    finally:
        group.remove()


if __name__ == "__main__":
    sys.exit(main(globals()))
