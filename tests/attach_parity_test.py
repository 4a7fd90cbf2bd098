"""What tests/attach_parity_test.sh runs: a job that attaches learns what the built-in trainer
does."""
import os
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attach_test import ROOT, SECONDS, SUMS, Run, read_floats  # noqa: E402
from script_test import Skip, main, need  # noqa: E402

PARITY = os.path.join(ROOT, "tests", "attach_parity_job.py")


def heldout_loss(run, directory):
    """Of the run's model as it is exported, on the end of the text that nobody trained on."""
    import torch
    import attach_parity_job
    run.federation.call("atollctl", "model", "export", "--dir", run.federation.run, "--output",
                        directory)
    model = attach_parity_job.Llama(attach_parity_job.SHAPE)
    found = read_floats(os.path.join(directory, "model.safetensors"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(found[name]).view_as(parameter))
    with open(run.federation.path("text.txt"), "rb") as file:
        text = file.read()
    tail = torch.tensor(list(text[len(text) - int(len(text) * 0.02):]))
    rows = tail[:len(tail) // 33 * 33].view(-1, 33)
    with torch.no_grad():
        return model(rows[:, :-1], rows[:, 1:]).item()


def trained_by(attached):
    """The held-out loss after a budget of 20 rounds, and the rounds."""
    keys = dict(SUMS, name="parity", inner_steps=80, inner__dylu="false",
                inner__schedule="cosine",
                token_budget=20 * 80 * 8 * 32)
    with Run(attached=attached, **keys) as run:
        if attached:
            run.job(PARITY, run.federation.path("text.txt"), "--sequences", "8",
                    "--learning-rate", "1e-3")
        run.federation.until("the budget is spent",
                             lambda: run.federation.status()["phase"] == "paused", 3 * SECONDS)
        loss = heldout_loss(run, "exported")
        rounds = len([e for e in run.federation.ledger() if e["kind"] == "contribution"])
        run.end()
    shutil.rmtree("federation")
    shutil.rmtree("exported")
    return loss, rounds


def test_an_attached_trainer_learns_what_the_built_in_one_does_from_the_same_data():
    need("torch")
    # it trains on the first 200 kB of this tree's documents: within 0.004 nats on one day's, 0.05
    # apart on the next day's, each again and again, and the cause of the 0.05 is not known
    if not os.environ.get("ATOLL_TEST_PARITY"):
        raise Skip("its outcome depends on the text, 0.003 to 0.05 nats, for a cause that is not "
                   "known: ATOLL_TEST_PARITY=1 runs it")
    built_in, rounds = trained_by(False)
    attached, its_rounds = trained_by(True)
    print(f"built in {built_in:.4f} after {rounds} rounds, attached {attached:.4f} after "
          f"{its_rounds}", flush=True)
    assert built_in < 3.5 and abs(attached - built_in) <= 0.01, (built_in, attached)
    assert 18 <= its_rounds <= rounds <= 21, (rounds, its_rounds)


if __name__ == "__main__":
    sys.exit(main(globals()))
