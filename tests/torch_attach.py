"""What `make test-torch` runs, with PyTorch's current release: training jobs in its layouts attach
to a site's node. tests/attach_test.py has what needs none of it."""
import os
import re
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attach_launch_test import (  # noqa: E402, F401
    test_the_kubernetes_files_are_what_the_schema_says,
    test_torchrun_starts_ranks_again_with_the_next_generation)
from attach_test import ROOT, Run  # noqa: E402
from layout_test import (  # noqa: E402, F401
    test_a_gpt2_trains_by_transformers_trainer_with_one_callback,
    test_a_vision_transformer_trains_by_transformers_trainer_with_one_callback,
    test_a_run_from_a_gpt2_trains_by_jobs_that_attach_and_its_export_opens,
    test_a_run_from_a_vision_transformer_trains_and_its_export_opens,
    test_an_adapter_trains_by_transformers_trainer_with_one_callback_and_peft_opens_its_export,
    test_an_adapter_trains_over_its_frozen_base_and_peft_opens_its_export,
    test_parameters_have_the_names_that_they_are_saved_under)
from script_test import main  # noqa: E402

LAYOUT = os.path.join(ROOT, "tests", "attach_layout.py")


def start(run, layout, ranks, *options):
    port = run.federation.port + 1 if run.federation.port < 65000 else 64999
    for rank in range(ranks):
        run.job(LAYOUT, layout, run.federation.path("text.txt"), *options, RANK=str(rank),
                WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def contributed(layout, ranks, count=1, *options, **keys):
    """The first contributions of a job in that layout: steps and payload of each."""
    with Run(inner_steps=4, inner__dylu="false", **keys) as run:
        start(run, layout, ranks, *options)
        run.until("it contributes", lambda: run.receipts() >= count)
        found = [(one["inner_steps"], one["payload"]) for one in run.contributions()[:count]]
        run.end()
        for job in run.jobs:
            assert job.wait() == 0, job.text()
        assert re.search(f"trainer_attached .*ranks={ranks} ", run.site.text())
        losses = [float(x) for x in re.findall(r"loss (\S+)", run.jobs[0].text())]
    shutil.rmtree("federation")
    return found, losses


def payload(layout, ranks, steps):
    """Of the first contribution, if it is of so many steps: when an order is seen decides that."""
    for _ in range(6):
        (found,), _ = contributed(layout, ranks)
        if found[0] == steps or steps is None:
            return found
    raise AssertionError(f"{layout}: {found[0]} steps, never {steps}")


def test_every_layout_publishes_the_payload_bytes_of_a_plain_module():
    plain = payload("plain", 1, None)
    for layout, ranks in (("ddp", 2), ("fsdp", 3), ("tp", 2), ("hsdp", 4), ("fsdp_tp", 4),
                          ("compile", 1), ("head", 1), ("accumulation", 1), ("scaler", 1)):
        found = payload(layout, ranks, plain[0])
        assert found == plain, (layout, found, plain)


def train(layout, ranks):
    """For real: after several contributions and as many corrections the loss has fallen."""
    _, losses = contributed(layout, ranks, 8, "--real", "--pause", "0")
    assert losses[0] > 5 > losses[-1], (layout, losses[0], losses[-1])


def test_fully_shard_on_three_ranks_trains():
    train("fsdp", 3)


def test_tensor_parallel_on_two_ranks_trains():
    train("tp", 2)


def test_fully_shard_of_replicas_and_over_tensor_parallel_trains():
    train("hsdp", 4)
    train("fsdp_tp", 4)


def test_fp32_masters_of_bf16_parameters_publish_the_payload_bytes_of_a_plain_module():
    plain = payload("plain", 1, None)
    assert payload("masters", 1, plain[0]) == plain


def test_bf16_parameters_without_masters_are_refused():
    with Run() as run:
        start(run, "bf16", 1)
        assert run.jobs[0].wait() != 0
        wanted = "is bfloat16, and the optimizer has no fp32 master of it: give join(masters="
        assert wanted in run.jobs[0].text(), run.jobs[0].text()
        run.jobs.clear()


if __name__ == "__main__":
    sys.exit(main(globals()))
