"""What tests/layout_test.sh runs: runs that are made from a checkpoint of any architecture (`run
create --from`), by jobs that attach, up to an export that transformers opens."""
import json
import os
import shutil
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attach_test import PROGRAMS, SECONDS, Job  # noqa: E402
from federation_harness import ROOT, Federation  # noqa: E402
from script_test import main, need, run, write  # noqa: E402

CTL = os.path.join(PROGRAMS, "atollctl")
NODE = os.path.join(PROGRAMS, "atoll-node")
JOB = os.path.join(ROOT, "tests", "layout_job.py")
MANIFEST = """name: any
inner:
  inner_steps: 4
merge:
  quorum: 1
  warmup_steps: 0
"""


# ---- checkpoints without any library ------------------------------------------------------------
SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1}


def safetensors(tensors, data=None, header=None):
    """tensors: name -> (type, shape, bytes)."""
    entries, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (kind, shape, values) in tensors.items():
        entries[name] = {"dtype": kind, "shape": shape,
                         "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    text = (header or json.dumps(entries)).encode()
    return struct.pack("<Q", len(text)) + text + (body if data is None else data)


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def tensor(*shape, value=0.5, kind="F32"):
    count = 1
    for size in shape:
        count *= size
    if kind == "F32":
        return kind, list(shape), floats(*(value + i / 64 for i in range(count)))
    return kind, list(shape), bytes(i % 61 for i in range(count * SIZES[kind]))


def read_tensors(path):
    """name -> (type, shape, bytes), of a file or a directory with an index."""
    if os.path.isdir(path):
        index = os.path.join(path, "model.safetensors.index.json")
        if not os.path.exists(index):
            return read_tensors(os.path.join(path, "model.safetensors"))
        with open(index) as file:
            files = set(json.load(file)["weight_map"].values())
        found = {}
        for name in files:
            found.update(read_tensors(os.path.join(path, name)))
        return found
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: (e["dtype"], e["shape"], data[slice(*e["data_offsets"])])
            for name, e in header.items()}


def checkpoint(directory, tensors, **config):
    os.makedirs(directory, exist_ok=True)
    write(os.path.join(directory, "model.safetensors"), safetensors(tensors))
    write(os.path.join(directory, "config.json"),
          json.dumps({"model_type": "other", "hidden_size": 4, **config}))
    return directory


def create(directory, *options, code=0, text=MANIFEST):
    write(directory + ".yaml", text)
    return run(CTL, "run", "create", directory, "--manifest", directory + ".yaml", *options,
               code=code)


def manifest_of(directory):
    with open(os.path.join(directory, "manifest.yaml")) as file:
        return dict(line.rstrip("\n").split(": ", 1) for line in file)


def export(directory, output, *options):
    run(CTL, "model", "export", "--dir", directory, "--output", output, *options)
    return read_tensors(output)


# ---- whole runs ---------------------------------------------------------------------------------
def gpt2(directory, **more):
    transformers = need("transformers")
    torch = need("torch")
    torch.manual_seed(1)
    config = transformers.GPT2Config(**{"vocab_size": 64, "n_positions": 32, "n_embd": 16,
                                        "n_layer": 2, "n_head": 2, **more})
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(directory, safe_serialization=True)
    return model


def vit(directory):
    transformers = need("transformers")
    torch = need("torch")
    torch.manual_seed(2)
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                    intermediate_size=32, image_size=16, patch_size=8)
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(directory, safe_serialization=True)
    write(os.path.join(directory, "preprocessor_config.json"), '{"size": 16}')
    return model


def train_and_export(kind, start, opens):
    """A run from checkpoint/: one site has a copy of it, the other takes it from the coordinator;
    both train by jobs that attach. Returns the model that transformers makes of the export."""
    federation = Federation(PROGRAMS, "federation", MANIFEST, create=["--from", start])
    jobs = []
    try:
        federation.start_coordinator()
        before = export(federation.run, "first")
        assert before == read_tensors(start)
        copy = os.path.abspath("copy")
        shutil.copytree(start, copy)
        sites = [federation.add_site("copy", "--attach", "--from", copy),
                 federation.add_site("none", "--attach")]
        for site in sites:
            federation.until("it listens", lambda: " attach_at " in site.text(), SECONDS)
            jobs.append(Job(site.directory, JOB, start, kind, f"loaded-{site.name}").start())
        assert "snapshot_fetching" not in sites[0].text()
        for site in sites:
            federation.until(f"{site.name} contributes: {jobs[-1].text()}",
                             lambda: len(site.receipts) >= 3, SECONDS)
            loaded = read_tensors(f"loaded-{site.name}")
            assert loaded.keys() == before.keys()
        assert "snapshot_loaded" in sites[1].text()
        codes = federation.stop_run(SECONDS)
        assert set(codes.values()) == {0}, (codes, sites[0].tail(), sites[1].tail())
        wrong = federation.audit()
        assert not wrong, wrong
        for job in jobs:
            assert job.wait() == 0, job.text()
        after = export(federation.run, "last")
        assert {n: t[:2] for n, t in after.items()} == {n: t[:2] for n, t in before.items()}
        assert after != before
        at_site = read_tensors(os.path.join(sites[0].directory, "export"))
        assert at_site == after
        opens("last")
        opens(os.path.join(sites[0].directory, "export"))
    finally:
        for job in jobs:
            if job.handle.poll() is None:
                job.kill()
        federation.close()


def test_a_run_from_a_gpt2_trains_by_jobs_that_attach_and_its_export_opens():
    transformers = need("transformers")
    gpt2("start")
    train_and_export("lm", os.path.abspath("start"),
                     transformers.AutoModelForCausalLM.from_pretrained)


def test_a_run_from_a_vision_transformer_trains_and_its_export_opens():
    transformers = need("transformers")
    vit("start")

    def opens(directory):
        transformers.AutoModelForImageClassification.from_pretrained(directory)
        assert os.path.exists(os.path.join(directory, "preprocessor_config.json"))
    train_and_export("vit", os.path.abspath("start"), opens)


if __name__ == "__main__":
    sys.exit(main(globals()))
