"""What tests/attach_launch_test.sh runs: jobs that attach, started by what examples/launch shows.
Each is killed once, and must go on with the next generation."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attach_test import LIBRARY, PROGRAMS, ROOT, SECONDS, SUMS, TRAINER, Run  # noqa: E402
from attach_test import exported, in_the_model  # noqa: E402
from script_test import Skip, main, need  # noqa: E402

LAUNCH = os.path.join(ROOT, "examples", "launch")


def program(name):
    for folder in (os.environ.get("PATH", "").split(":") + ["/usr/sbin", "/sbin"]):
        if os.access(os.path.join(folder, name), os.X_OK):
            return os.path.join(folder, name)
    raise Skip(f"{name} is not installed")


def environment(site, **more):
    return dict(os.environ, ATOLL_DIR=site.directory, LIBATOLL=LIBRARY, PYTHON=sys.executable,
                OMP_NUM_THREADS="1", PYTHONPATH=os.path.join(ROOT, "python"),
                PATH=PROGRAMS + ":" + os.environ["PATH"], **more)


def start(command, given):
    with open("launcher.log", "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                env=given, start_new_session=True)


def said():
    with open("launcher.log") as file:
        return file.read()[-3000:]


def ranks_of(launcher):
    """The processes of this test's directory that run TRAINER, without what started them."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            same = os.readlink(f"/proc/{pid}/cwd") == os.getcwd()
        except OSError:
            continue
        if same and TRAINER.encode() in words[1:3] and int(pid) != launcher.pid:
            found.append(int(pid))
    return found


def killed_once(run, launcher, sessions=2):
    """One rank is killed; the job goes on with both."""
    run.federation.until("it contributes", lambda: run.receipts() >= 2, SECONDS)
    victims = ranks_of(launcher)
    assert len(victims) == 2, (victims, said())
    os.kill(max(victims), signal.SIGKILL)
    attached = lambda: len(re.findall("trainer_attached .*ranks=2 ", run.site.text()))  # noqa: E731
    run.federation.until("it is attached again", lambda: attached() >= sessions, SECONDS)
    before = run.receipts()
    run.federation.until("it goes on", lambda: run.receipts() >= before + 2, SECONDS)


def launched(command, **more):
    with Run(inner_steps=4, inner__dylu="false", **SUMS) as run:
        first = exported(run, "first", "--at", "0")
        launcher = start(command, environment(run.site, **more))
        try:
            killed_once(run, launcher)
            run.end()
            assert launcher.wait(SECONDS) == 0, said()
            assert len(in_the_model(run, first)) > 8
        except BaseException as error:
            raise AssertionError(f"{error}\n{said()}") from error
        finally:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()


def test_torchrun_starts_ranks_again_with_the_next_generation():
    if int(need("torch").__version__.split(".")[0]) < 2:
        raise Skip("PyTorch 1's torchrun does not run with Python 3.11; make test-torch has it")
    os.mkdir("bin")
    with open("bin/torchrun", "w") as file:  # of this Python
        file.write(f"#!/bin/sh\nexec {sys.executable} -m torch.distributed.run \"$@\"\n")
    os.chmod("bin/torchrun", 0o755)
    os.environ["PATH"] = os.path.abspath("bin") + ":" + os.environ["PATH"]
    launched([os.path.join(LAUNCH, "torchrun.sh"), "2", TRAINER, "steps", "--checkpoint", "saved"])


def test_mpirun_starts_ranks_again_with_the_next_generation():
    program("mpirun")
    launched([os.path.join(LAUNCH, "mpirun.sh"), "2", TRAINER, "steps", "--checkpoint", "saved"],
             OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SLURM = """ClusterName=atolltest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=3
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=p Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


class Slurm:
    """munged, slurmctld and slurmd of a cluster of this machine, as children of this process."""

    def __init__(self):
        if os.getuid() != 0:
            raise Skip("Slurm's daemons need root here")
        names = [program(name) for name in ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")]
        self.at = os.path.abspath("slurm")
        for folder in ("", "state", "spool"):
            os.makedirs(os.path.join(self.at, folder), mode=0o700, exist_ok=True)
        with open(os.open(self.at + "/munge.key", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(os.urandom(1024))
        host = socket.gethostname().split(".")[0]
        with open(self.at + "/slurm.conf", "w") as file:
            file.write(SLURM.format(host=host, at=self.at, control=free_port(), daemon=free_port(),
                                    cpus=os.cpu_count()))
        os.environ["SLURM_CONF"] = self.at + "/slurm.conf"
        munge = [names[0], "-F", "--force"] + [f"--{what}={self.at}/munge.{ending}" for what, ending
                                               in (("key-file", "key"), ("socket", "sock"),
                                                   ("pid-file", "pid"), ("log-file", "log"),
                                                   ("seed-file", "seed"))]
        self.children = [self.child(munge)]
        self.until(lambda: os.path.exists(self.at + "/munge.sock"), "munged")
        self.children += [self.child([names[1], "-D"]), self.child([names[2], "-D", "-N", host])]
        self.until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T"), "an idle node")

    def child(self, command):
        with open(self.at + "/daemons.log", "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def call(self, *command):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def until(self, holds, what):
        end = time.monotonic() + SECONDS
        while not holds():
            if time.monotonic() > end or any(c.poll() is not None for c in self.children):
                self.close()
                with open(self.at + "/daemons.log") as file:
                    raise Skip(f"Slurm does not run here: {what}: {file.read()[-300:]!r}")
            time.sleep(0.1)

    def close(self):
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            child.wait()


def test_slurm_starts_a_requeued_job_with_the_next_generation():
    slurm = Slurm()
    try:
        with Run(inner_steps=4, inner__dylu="false", **SUMS) as run:
            first = exported(run, "first", "--at", "0")
            given = environment(run.site, ATOLL_NODE_RUNS="1")
            done = subprocess.run(["sbatch", "--parsable", "--ntasks=2", "--mem=0", "--overcommit",
                                   "--cpus-per-task=1", "--output=launcher.log",
                                   os.path.join(LAUNCH, "slurm.sbatch"), TRAINER, "steps",
                                   "--checkpoint", "saved"], env=given, capture_output=True,
                                  text=True, check=False)
            assert done.returncode == 0, done
            job = done.stdout.strip()
            run.federation.until("it contributes", lambda: run.receipts() >= 2, SECONDS)
            subprocess.run(["scontrol", "requeue", job], check=True)
            state = lambda: slurm.call("squeue", "-h", "-j", job, "-o", "%T")  # noqa: E731
            run.federation.until("it waits", lambda: "PENDING" in state(), SECONDS)
            attached = lambda: len(re.findall("trainer_attached .*ranks=2 ",  # noqa: E731
                                              run.site.text()))

            def again():
                slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
                return attached() >= 2
            run.federation.until("it is attached again", again, SECONDS)
            before = run.receipts()
            run.federation.until("it goes on", lambda: run.receipts() >= before + 2, SECONDS)
            run.end()
            run.federation.until("it ends", lambda: "RUNNING" not in state(), SECONDS, alive=False)
            assert len(in_the_model(run, first)) > 8
    finally:
        slurm.close()


def test_slurm_brings_the_node_beside_the_ranks_and_the_job_is_complete_with_the_run():
    slurm = Slurm()
    try:
        with Run("one", inner_steps=4) as run:
            assert run.site.end(SECONDS) == 0  # its node runs in the job
            given = environment(run.site)
            done = subprocess.run(["sbatch", "--parsable", "--ntasks=2", "--mem=0", "--overcommit",
                                   "--cpus-per-task=1", "--output=launcher.log",
                                   os.path.join(LAUNCH, "slurm.sbatch"), TRAINER, "steps"],
                                  env=given, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done
            job = done.stdout.strip()
            run.federation.until("it contributes", lambda: os.path.exists("launcher.log") and
                                 " merged run=" in said(), SECONDS, alive=False)
            codes = run.federation.stop_run(SECONDS)
            assert codes["one"] == 0, codes
            queue = lambda: slurm.call("squeue", "-h", "-j", job).strip()  # noqa: E731
            run.federation.until("it ends", lambda: not queue(), SECONDS, alive=False)
            state = slurm.call("scontrol", "show", "job", job)
            assert "JobState=COMPLETED" in state, state + said()
            assert not run.federation.audit()
    finally:
        slurm.call("scancel", "-u", "root")
        slurm.close()


def test_slurm_starts_a_relay_on_each_host_and_the_ranks_attach_there():
    slurm = Slurm()
    try:
        with Run("one", inner_steps=4) as run:
            assert run.site.end(SECONDS) == 0  # its node runs in the job
            given = environment(run.site, PORT=str(free_port()), RELAY_DIR=os.path.abspath("relay"))
            done = subprocess.run(["sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2",
                                   "--mem=0", "--overcommit", "--output=launcher.log",
                                   os.path.join(LAUNCH, "slurm-hosts.sbatch"), TRAINER, "steps"],
                                  env=given, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done
            job = done.stdout.strip()
            run.federation.until("it contributes", lambda: os.path.exists("launcher.log") and
                                 " merged run=" in said(), SECONDS, alive=False)
            codes = run.federation.stop_run(SECONDS)
            assert codes["one"] == 0, codes
            queue = lambda: slurm.call("squeue", "-h", "-j", job).strip()  # noqa: E731
            run.federation.until("it ends", lambda: not queue(), SECONDS, alive=False)
            state = slurm.call("scontrol", "show", "job", job)
            assert "JobState=COMPLETED" in state, state + said()
            with open("launcher.log") as file:
                assert re.search("trainer_attached .*ranks=2 relayed=2 ", file.read()), said()
            assert not run.federation.audit()
    except BaseException as error:
        raise AssertionError(f"{error}\n{said()}") from error
    finally:
        slurm.call("scancel", "-u", "root")
        slurm.close()


def test_the_kubernetes_files_are_what_the_schema_says():
    tool = shutil.which("kubernetes-validate") or \
        os.path.join(os.path.dirname(sys.executable), "kubernetes-validate")
    if not os.path.exists(tool):
        raise Skip("kubernetes-validate is not installed")
    for name in ("job.yaml", "hosts.yaml"):
        path = os.path.join(LAUNCH, name)
        done = subprocess.run([tool, "--strict", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        with open(path) as file:
            wrong = re.sub(r"backoffLimit: \d+", "backoffLimit: six", file.read())
        with open("wrong.yaml", "w") as file:
            file.write(wrong)
        assert subprocess.run([tool, "--strict", "wrong.yaml"], capture_output=True,
                              check=False).returncode != 0


if __name__ == "__main__":
    sys.exit(main(globals()))
