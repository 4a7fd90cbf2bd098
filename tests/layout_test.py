"""What tests/layout_test.sh runs: runs that are made from a checkpoint of any architecture (`run
create --from`), by jobs that attach, up to an export that transformers opens."""
import json
import os
import shutil
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attach_test import PROGRAMS, SECONDS, Job  # noqa: E402
from federation_harness import ROOT, Federation  # noqa: E402
from script_test import SMALL, main, need, run, text, trainer, write  # noqa: E402

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
        if os.path.exists(os.path.join(path, "adapter_model.safetensors")):
            return read_tensors(os.path.join(path, "adapter_model.safetensors"))
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


def create(directory, *options, code=0, manifest=MANIFEST):
    write(directory + ".yaml", manifest)
    return run(CTL, "run", "create", directory, "--manifest", directory + ".yaml", *options,
               code=code)


def warned(directory, *options):
    """What creating a run says beside its result."""
    write(directory + ".yaml", MANIFEST)
    return subprocess.run([CTL, "run", "create", directory, "--manifest", directory + ".yaml",
                           *options], check=True, capture_output=True, text=True).stderr


def manifest_of(directory):
    with open(os.path.join(directory, "manifest.yaml")) as file:
        return dict(line.rstrip("\n").split(": ", 1) for line in file)


def export(directory, output, *options):
    run(CTL, "model", "export", "--dir", directory, "--output", output, *options)
    return read_tensors(output)


def llama(directory, rows=("lm_head.weight",), **config):
    """A small Llama's config.json and tensors, `rows` being those [vocabulary, hidden]."""
    tensors = {"model.embed_tokens.weight": tensor(8, 4), "model.norm.weight": tensor(4),
               **{name: tensor(8, 4, value=1 + i) for i, name in enumerate(rows)}}
    for name, shape in (("self_attn.q_proj", (4, 4)), ("self_attn.k_proj", (2, 4)),
                        ("self_attn.v_proj", (2, 4)), ("self_attn.o_proj", (4, 4)),
                        ("mlp.gate_proj", (8, 4)), ("mlp.up_proj", (8, 4)),
                        ("mlp.down_proj", (4, 8)), ("input_layernorm", (4,)),
                        ("post_attention_layernorm", (4,))):
        tensors[f"model.layers.0.{name}.weight"] = tensor(*shape, value=0.25)
    return checkpoint(directory, tensors, **{
        "model_type": "llama", "hidden_size": 4, "num_attention_heads": 2, "vocab_size": 8,
        "num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8,
        "max_position_embeddings": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, **config})


def is_built_in(directory):
    """Whether a run's layout has the built-in trainer's order, rather than that of names."""
    with open(os.path.join(directory, "layout")) as file:
        text = file.read()
    return text.index("self_attn.q_proj") < text.index("mlp.down_proj")


def test_a_llama_that_the_built_in_trainer_does_not_compute_is_a_model_for_jobs_that_attach():
    create("own", "--from", llama("from-own"))
    assert is_built_in("own")
    scaled = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    for name, changes in (("rope", scaled), ("dim", {"head_dim": 8}),
                          ("bias", {"attention_bias": True}),
                          ("score", {"rows": ["score.weight"]})):
        create(name, "--from", llama("from-" + name, **changes))
        assert not is_built_in(name)
        assert export(name, "export-" + name) == read_tensors("from-" + name)
    said = create("asked", "--from", "from-rope", manifest=MANIFEST + "model:\n  context: 8\n",
                  code=1)
    assert "rope_scaling" in said, said
    # in the built-in trainer's order it would train that, with positions of another kind
    said = create("listed", "--from", "from-rope", "--layout", "own/layout", code=1)
    assert "rope_scaling" in said and not os.path.exists("listed"), said
    create("listed", "--from", "from-own", "--layout", "own/layout")


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


def train_and_export(kind, start, opens, base=(), how=()):
    """A run from a checkpoint: one site has a copy of it, the other takes it from the coordinator;
    both train by jobs that attach. Then the export is opened."""
    federation = Federation(PROGRAMS, "federation", MANIFEST, create=["--from", start, *base])
    jobs = []
    try:
        federation.start_coordinator()
        before = export(federation.run, "first")
        assert before == read_tensors(start)
        copy = os.path.abspath("copy")
        shutil.copytree(start, copy)
        sites = [federation.add_site("copy", "--attach", "--from", copy, *base),
                 federation.add_site("none", "--attach", *base)]
        for site in sites:
            federation.until("it listens", lambda: " attach_at " in site.text(), SECONDS)
            jobs.append(Job(site.directory, JOB, start, kind, os.path.abspath(
                f"loaded-{site.name}"), *how).start())
        assert "snapshot_fetching" not in sites[0].text()
        for site in sites:
            federation.until(f"{site.name} contributes: {jobs[-1].text()}",
                             lambda: len(site.receipts) >= 3, SECONDS)
            loaded = read_tensors(f"loaded-{site.name}")
            assert loaded.keys() == before.keys()
            assert site is not sites[0] or loaded == before, "what it trains is not the run's"
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


def test_a_gpt2_trains_by_transformers_trainer_with_one_callback():
    transformers = need("transformers")
    need("accelerate")
    gpt2("start")
    train_and_export("lm", os.path.abspath("start"),
                     transformers.AutoModelForCausalLM.from_pretrained, how=["--trainer"])


def test_a_vision_transformer_trains_by_transformers_trainer_with_one_callback():
    transformers = need("transformers")
    need("accelerate")
    vit("start")
    train_and_export("vit", os.path.abspath("start"),
                     transformers.AutoModelForImageClassification.from_pretrained,
                     how=["--trainer"])


def test_an_adapter_trains_over_its_frozen_base_and_peft_opens_its_export():
    adapter_trains()


def test_an_adapter_trains_by_transformers_trainer_with_one_callback_and_peft_opens_its_export():
    need("accelerate")
    adapter_trains("--trainer")


def adapter_trains(*how):
    peft, transformers = need("peft"), need("transformers")
    base = os.path.abspath("base")
    model = peft.get_peft_model(gpt2("base"), peft.LoraConfig(
        r=2, target_modules=["c_attn", "wte"], modules_to_save=["ln_f"], task_type="CAUSAL_LM",
        fan_in_fan_out=True))
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained("start")

    def opens(directory):
        one = transformers.AutoModelForCausalLM.from_pretrained(base)
        loaded = peft.PeftModel.from_pretrained(one, directory).state_dict()
        name = "base_model.model.transformer.h.0.attn.c_attn.lora_B."
        assert loaded[name + "default.weight"].abs().sum() > 0  # it begins at zero
    train_and_export("lora", os.path.abspath("start"), opens, ("--base", base), how)


def test_parameters_that_are_packed_are_refused_with_what_to_use():
    torch = need("torch")
    from atoll import AtollError
    from atoll import _pieces as pieces

    class FullyShardedDataParallel(torch.nn.Module):
        """Of the name of PyTorch's, which needs an accelerator."""
    packed = torch.nn.Sequential(torch.nn.Linear(2, 2), FullyShardedDataParallel())
    partitioned = torch.nn.Linear(2, 2)
    partitioned.weight.ds_id = 0
    for model, words in ((packed, "use fully_shard (FSDP2)"), (partitioned, "weight is partition")):
        try:
            pieces.trained(model)
        except AtollError as error:
            assert words in str(error), error
        else:
            raise AssertionError(f"{words}: taken")


class Parameter:
    """Of torch's, what declaring it looks at."""
    dtype, shape, requires_grad = "torch.float32", (2,), True

    def numel(self):
        return 2

    def detach(self):
        return self


class Adapter:
    """As PEFT wraps a model, with what else is in it."""
    peft_config, active_adapter = {}, "default"

    def __init__(self, *names):
        self.names = names

    def modules(self):
        return [self]

    def named_parameters(self):
        return [(name, Parameter()) for name in self.names]


def test_two_parameters_with_one_name_in_the_run_are_refused_and_none_is_left_out():
    from atoll import AtollError
    from atoll import _pieces as pieces
    assert [one.name for one in pieces.trained(Adapter("a.default.w", "b.w"))] == ["a.w", "b.w"]
    both = Adapter("a.default.w", "a.w")
    for model, how in ((both, {}), (Adapter("a", "b"), {"names": lambda name: "one"})):
        try:
            pieces.trained(model, **how)
        except AtollError as error:
            first, second = model.names
            assert f"parameters {first} and {second} would both be" in str(error), error
        else:
            raise AssertionError(f"{model.names}: taken")


def test_parameters_have_the_names_that_they_are_saved_under():
    torch, transformers = need("torch"), need("transformers")
    from atoll import _pieces as pieces

    def names(model, **more):
        return {one.name: list(one.parameter.shape) for one in pieces.trained(model, **more)}
    for model, directory in ((gpt2("lm"), "lm"), (vit("vit"), "vit")):
        saved = {name: shape for name, (_, shape, _) in read_tensors(directory).items()}
        assert names(model) == saved, directory
        assert names(torch.nn.parallel.DataParallel(model).module) == saved
        loaded = type(model).from_pretrained(directory)
        assert names(loaded) == saved, directory
        assert names(loaded, names=str).keys() == {n for n, _ in loaded.named_parameters()}
        first = next(iter(saved))
        assert "other" in names(loaded, names={first: "other"})
    nothing = torch.nn.Module()
    nothing.w, nothing.none = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 0))
    assert names(nothing) == {"w": [2]}
    if int(transformers.__version__.split(".")[0]) >= 5:
        # its experts are one tensor in memory: a run is made of that
        config = transformers.MixtralConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, num_local_experts=4)
        experts = transformers.MixtralForCausalLM(config)
        experts.save_pretrained("experts", save_original_format=False)
        saved = {name: shape for name, (_, shape, _) in read_tensors("experts").items()}
        assert names(experts) == saved


SCALAR_JOB = """import sys, time
sys.path.insert(0, sys.argv[1])
import torch, atoll
model = torch.nn.Module()
for name, shape in (("w", (4, 4)), ("scale", ()), ("none", (0, 4))):
    model.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
site = atoll.join(model, optimizer, tokens_per_step=4)
print("loaded", model.scale.item(), flush=True)
while not (site.stopping or site.away):
    loss = (model.w.sum() - 1) ** 2 + (model.scale - 3) ** 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(0.02)
"""


def test_a_single_value_is_trained_and_an_empty_tensor_is_left_out():
    need("torch")
    checkpoint("start", {"w": tensor(4, 4), "scale": tensor(value=0.25), "none": tensor(0, 4)})
    write("job.py", SCALAR_JOB)
    federation = Federation(PROGRAMS, "federation",
                            MANIFEST + "outer: {mode: dense}\ncodec: {kind: fp32}\n",
                            create=["--from", os.path.abspath("start")])
    job = None
    try:
        federation.start_coordinator()
        site = federation.add_site("one", "--attach")
        federation.until("it listens", lambda: " attach_at " in site.text(), SECONDS)
        job = Job(site.directory, os.path.abspath("job.py"), os.path.join(ROOT, "python")).start()
        federation.until("it contributes", lambda: len(site.receipts) >= 3, SECONDS)
        assert "loaded 0.25" in job.text(), job.text()
        codes = federation.stop_run(SECONDS)
        assert set(codes.values()) == {0} and job.wait() == 0, (codes, job.text())
        after = export(federation.run, "last")
        assert struct.unpack("<f", after["scale"][2])[0] > 0.25
        assert after["none"] == ("F32", [0, 4], b"")
    finally:
        if job and job.handle.poll() is None:
            job.kill()
        federation.close()


# ---- what is exported is what came in ----------------------------------------------------------
def small(kind="F32"):
    return {"blocks.10.w": tensor(4, 4, kind=kind), "blocks.2.w": tensor(4, 4, value=1, kind=kind),
            "norm": tensor(4, value=2, kind=kind), "scale": tensor(kind=kind),
            "conv": tensor(2, 3, 2, 2, value=3, kind=kind)}


def halves(kind, count, seed=0):
    """Finite 16-bit values of all sizes, subnormal ones too."""
    most = 0x7F7F if kind == "BF16" else 0x7BFF
    values = [(seed + i * 9973) % (most + 1) | (i % 2) << 15 for i in range(count)]
    return struct.pack(f"<{count}H", *values)


def test_an_export_of_version_0_is_the_checkpoint_tensor_for_tensor_in_every_type():
    for kind in ("F32", "BF16", "F16", "mixed"):
        tensors = small()
        for at, (name, (_, shape, _)) in enumerate(list(tensors.items())):
            one = ("F32", "BF16", "F16")[at % 3] if kind == "mixed" else kind
            if one != "F32":
                count = 1
                for size in shape:
                    count *= size
                tensors[name] = (one, shape, halves(one, count, at * 77))
        checkpoint(f"start-{kind}", tensors)
        create(f"run-{kind}", "--from", f"start-{kind}")
        assert export(f"run-{kind}", f"out-{kind}") == tensors, kind
        assert export(f"run-{kind}", f"cut-{kind}", "--shard-size", "40B") == tensors, kind
        assert os.path.exists(f"cut-{kind}/model.safetensors.index.json")
        assert not os.path.exists(f"cut-{kind}/model.safetensors")
        with open(f"start-{kind}/config.json") as one, open(f"out-{kind}/config.json") as other:
            assert one.read() == other.read()


def cut(source, directory, files):
    """The same tensors in so many files, with an index."""
    tensors = read_tensors(source)
    os.makedirs(directory)
    shutil.copy(os.path.join(source, "config.json"), directory)
    where = {}
    for number in range(files):
        name = f"part-{number}.safetensors"
        mine = dict(list(tensors.items())[number::files])
        where.update({tensor: name for tensor in mine})
        write(os.path.join(directory, name), safetensors(mine))
    write(os.path.join(directory, "model.safetensors.index.json"),
          json.dumps({"metadata": {}, "weight_map": where}))
    return directory


def test_the_same_weights_in_other_files_are_the_same_start():
    checkpoint("start", small())
    create("one", "--from", "start")
    create("three", "--from", cut("start", "parts", 3))
    create("file", "--from", "start/model.safetensors")
    assert manifest_of("one") == manifest_of("three")
    assert manifest_of("one")["layout"] == manifest_of("file")["layout"]
    assert manifest_of("one")["initial.root"] == manifest_of("file")["initial.root"]
    with open("one/layout") as file:
        names = [line.split()[-1] for line in file.read().splitlines()[1:]]
    assert names == ["blocks.2.w", "blocks.10.w", "conv", "norm", "scale"], names
    run(CTL, "ledger", "verify", "--dir", "one", "--from", "parts")
    said = run(CTL, "ledger", "verify", "--dir", "one", code=1)
    assert "give it with --from" in said and "entry" not in said, said
    other = small()
    other["norm"] = tensor(4, value=2.5)
    checkpoint("other", other)
    said = run(CTL, "ledger", "verify", "--dir", "one", "--from", "other", code=4)
    root = manifest_of("one")["initial.root"]
    assert "is not the run's initial checkpoint" in said and root in said, said
    said = create("never", "--from", "other", code=1,
                  manifest=MANIFEST + f"initial:\n  root: {root}\n")
    assert "is not the run's initial checkpoint" in said and root in said, said


def test_sizes_of_the_manifest_that_are_not_those_of_config_json_are_refused_with_both_values():
    checkpoint("start", small(), n_embd=8, n_head=2, layer_norm_epsilon=1e-5, rope_theta=500.0,
               vocab_size=300, tie_word_embeddings=False)
    os.rename("start/config.json", "config")
    config = json.loads(open("config").read())
    del config["hidden_size"]
    write("start/config.json", json.dumps(config))
    create("right", "--from", "start",
           manifest=MANIFEST + "model: {hidden: 8, heads: 2, rope_theta: 500, tied: false}\n")
    taken = manifest_of("right")
    assert taken["model.vocabulary"] == "300" and taken["model.norm_epsilon"] == "1e-05", taken
    for key, value, name, there in (
            ("hidden", "16", "n_embd", "8"), ("heads", "4", "n_head", "2"),
            ("rope_theta", "10000", "rope_theta", "500"), ("tied", "true",
                                                           "tie_word_embeddings", "false"),
            ("norm_epsilon", "1e-06", "layer_norm_epsilon", "1e-05"),
            ("vocabulary", "256", "vocab_size", "300")):
        said = create("wrong", "--from", "start", code=1,
                      manifest=MANIFEST + f"model: {{{key}: {value}}}\n")
        assert f"{name} is {there}, the manifest's model.{key} is {value}" in said, said
        assert "config.json" in said and not os.path.exists("wrong"), said


def test_tied_weights_under_two_names_are_one_tensor_and_come_out_under_both():
    wide = tensor(6, 4)
    tensors = {"wte.weight": wide, "h.0.w": tensor(4, 4, value=7), "lm_head.weight": wide}
    checkpoint("start", tensors, vocab_size=6)
    create("run", "--from", "start")
    with open("run/layout") as file:
        text = file.read()
    assert "tied [wte.weight] lm_head.weight\n" in text and text.count("trained") == 2, text
    assert export("run", "out") == tensors
    checkpoint("untied", tensors, vocab_size=6, tie_word_embeddings=False)
    create("apart", "--from", "untied")
    with open("apart/layout") as file:
        assert file.read().count("trained") == 3
    cut("start", "parts", 3)
    create("parted", "--from", "parts")
    assert manifest_of("parted") == manifest_of("run")
    untrue = dict(tensors, **{"lm_head.weight": tensor(6, 4, value=9)})
    checkpoint("untrue", untrue, vocab_size=6)
    said = create("never", "--from", "untrue", "--layout", "run/layout", code=1)
    assert 'tensor "lm_head.weight" differs from "wte.weight", which it is tied to' in said, said


def test_a_list_with_other_line_ends_is_the_same_and_a_name_that_it_cannot_hold_is_told():
    text = "atoll tensors 1\ntrained F32 [4, 4] w\ntrained F32 [4] bias\n"
    create("plain", "--layout", write("plain.txt", text))
    create("ends", "--layout", write("ends.txt", text.replace("\n", "\r\n")))
    assert manifest_of("plain")["layout"] == manifest_of("ends")["layout"] != "none"
    for name in ("h.0\n.w", "[x] y", " lead", "trail "):
        checkpoint("odd", {"w": tensor(2), name: tensor(3)})
        said = create("never", "--from", "odd", code=1)
        assert f'tensor "{name}"'.replace("\n", "?") in said and "names have no" in said, said


def test_a_list_says_what_is_trained_and_what_is_frozen():
    tensors = dict(small(), ids=tensor(1, 8, kind="I64"), mask=tensor(3, kind="U8"))
    checkpoint("start", tensors)
    said = create("never", "--from", "start", code=1)
    assert 'tensor "ids" has type I64, which cannot be trained' in said and "--layout" in said
    lines = ["atoll tensors 1", "# in an order of my own", "trained F32 [4] norm",
             "trained F32 [4, 4] blocks.2.w", "trained F32 [] scale",
             "trained F32 [2, 3, 2, 2] conv", "frozen I64 [1, 8] - ids", "",
             "frozen F32 [4, 4] - blocks.10.w", "frozen U8 [3] - mask"]
    write("list", "\n".join(lines))
    create("run", "--from", "start", "--layout", "list")
    assert export("run", "out") == tensors
    create("again", "--from", "start", "--layout", "run/layout")  # as it was completed
    assert manifest_of("again") == manifest_of("run")
    changed = dict(tensors, mask=("U8", [3], b"\0\0\1"))
    checkpoint("changed", changed)
    said = create("never", "--from", "changed", "--layout", "run/layout", code=1)
    assert 'frozen tensor "mask": its bytes are others' in said, said
    said = run(CTL, "ledger", "verify", "--dir", "run", "--from", "changed", code=4)
    assert 'tensor "mask": its bytes are others' in said, said
    run(CTL, "ledger", "verify", "--dir", "run", "--from", "start")
    for number, line, words in (
            (0, "atoll tensors 2", "first line"), (2, "trained F32 norm", "line 3"),
            (2, "trained I32 [4] norm", "cannot be trained"), (2, "trained F32 [5] norm", "shape"),
            (2, "trained F32 [0] norm", "empty"), (2, "teached F32 [4] norm", "begins with"),
            (2, "trained F32 [4] blocks.2.w", "comes twice"), (6, "", "is not in this model"),
            (2, "trained F32 [99999999999999999999] norm", "too large"),
            (2, "trained F32 [4194304, 4194304] norm", "too large"),
            (9, "tied [gone] mask", "which is not trained")):
        write("list", "\n".join(line if at == number else one for at, one in enumerate(lines)))
        said = create("never", "--from", "start", "--layout", "list", code=1)
        assert words in said and not os.path.exists("never"), (line, said)
    write("list", "atoll tensors 1\ntrained F32 [2, 2] a.weight\ntrained BF16 [2] a.bias\n"
          "trained F32 [2] norm.weight\n")
    create("drawn", "--layout", "list")
    drawn = export("drawn", "drawn-out")
    assert drawn["a.bias"] == ("BF16", [2], bytes(4))
    assert drawn["norm.weight"][2] == floats(1, 1) and drawn["a.weight"][2] != bytes(16)


def test_empty_tensors_and_single_values_come_out_as_they_went_in():
    tensors = {"scale": tensor(), "none": tensor(0, 4), "w": tensor(4, 4),
               "step": tensor(kind="I64"), "empty": tensor(3, 0, kind="I64"),
               "bias": tensor(4, kind="BF16")}
    assert tensors["scale"][1] == []
    checkpoint("start", {n: t for n, t in tensors.items() if n != "step"})
    create("run", "--from", "start")
    assert export("run", "out") == read_tensors("start")
    assert read_tensors("out")["none"] == ("F32", [0, 4], b"")
    checkpoint("more", tensors)
    write("list", "atoll tensors 1\ntrained F32 [] scale\ntrained F32 [4, 4] w\n"
          "trained BF16 [4] bias\nfrozen F32 [0, 4] - none\nfrozen I64 [] - step\n"
          "frozen I64 [3, 0] - empty\n")
    create("listed", "--from", "more", "--layout", "list")
    assert export("listed", "listed-out") == read_tensors("more")


def test_a_type_that_the_list_gives_and_the_checkpoint_has_not_is_said():
    checkpoint("start", {"a": tensor(4), "b": tensor(4), "c": tensor(2, kind="BF16")})
    write("list", "atoll tensors 1\ntrained F32 [4] a\ntrained F32 [4] b\ntrained BF16 [2] c\n")
    assert "other_type" not in warned("same", "--from", "start", "--layout", "list")
    write("list", "atoll tensors 1\ntrained BF16 [4] a\ntrained F16 [4] b\ntrained BF16 [2] c\n")
    said = warned("run", "--from", "start", "--layout", "list")
    assert 'tensor="a" layout=BF16 checkpoint=F32 others=1' in said, said
    assert export("run", "out")["a"][0] == "BF16"


def test_more_tensors_than_a_site_can_be_told_are_refused_with_the_limit():
    checkpoint("start", {f"model.layers.{i // 500}.mlp.experts.{i % 500}.down_proj.weight":
                         tensor(1) for i in range(20000)})
    said = create("never", "--from", "start", code=1)
    assert "start has 20000 tensors" in said and "about 16,000 tensors" in said, said
    assert not os.path.exists("never")


def test_a_damaged_or_hostile_checkpoint_is_refused_and_nothing_is_half_made():
    good = safetensors(small())
    head = json.loads(good[8:8 + struct.unpack("<Q", good[:8])[0]])

    def with_entry(name, **changes):
        entries = json.loads(json.dumps(head))
        entries[name].update(changes)
        return safetensors(small(), header=json.dumps(entries))
    nan = dict(small(), norm=("F32", [4], floats(1, float("nan"), 1, 1)))
    infinite = dict(small(), norm=("F32", [4], floats(1, 1, float("inf"), 1)))
    text = json.dumps(head)
    twice = text[:-1] + ', "norm": ' + json.dumps(head["norm"]) + "}"
    cases = {
        "cut short": (good[:-5], "do not fit"), "cut in the header": (good[:60], "truncated"),
        "cut in its size": (good[:5], "truncated"), "empty": (b"", "truncated"),
        "a huge header": (struct.pack("<Q", 2 ** 63) + good[8:], "truncated"),
        "no JSON": (safetensors(small(), header="not JSON"), "header"),
        "an array": (safetensors(small(), header="[1]"), "not an object"),
        "a number": (safetensors(small(), header="1152921504606846976"), "not an object"),
        "overlapping": (with_entry("norm", data_offsets=[0, 16]), "overlaps"),
        "beyond the end": (with_entry("norm", data_offsets=[4096, 4112]), "do not fit"),
        "backwards": (with_entry("norm", data_offsets=[16, 0]), "do not fit"),
        "another shape": (with_entry("norm", shape=[5]), "do not fit its shape"),
        "a shape past 64 bits": (with_entry("norm", shape=[2 ** 33, 2 ** 33]), "larger than any"),
        "nine dimensions": (with_entry("norm", shape=[1] * 8 + [4]), "9 dimensions"),
        "an unknown type": (with_entry("norm", dtype="F31"), "F31"),
        "an integer tensor": (with_entry("norm", dtype="I32"), "has type I32"),
        "a name twice": (safetensors(small(), header=twice), "norm"),
        "more data than tensors": (good + b"more", "belong to no tensor"),
        "no tensors": (safetensors({}), "no tensor to train"),
        "NaN": (safetensors(nan), 'tensor "norm" has a value that is not finite'),
        "infinite": (safetensors(infinite), 'tensor "norm" has a value that is not finite'),
        "a name with a line end": (safetensors({"a\nb": tensor(4)}), "characters"),
        "a long name": (safetensors({"a" * 200: tensor(4)}), "200 bytes")}
    os.makedirs("start")
    write("start/config.json", "{}")
    for what, (content, words) in cases.items():
        write("start/model.safetensors", content)
        for more in ([], ["--dry-run"]):
            said = create("never", "--from", "start", *more, code=1)
            assert words in said and "start" in said, (what, words, said)
            assert not os.path.exists("never"), what


def test_a_directory_without_safetensors_is_refused_with_what_to_do():
    os.makedirs("start")
    said = create("never", "--from", "start", code=1)
    assert "has neither model.safetensors nor model.safetensors.index.json" in said, said
    write("start/pytorch_model.bin", "pickled")
    said = create("never", "--from", "start", code=1)
    assert "safe_serialization=True" in said and not os.path.exists("never"), said
    said = create("never", "--from", "gone", code=1)
    assert "gone: there is no such file or directory" in said, said
    tensors = {f"model.layers.{i}.experts.{j}.weight": tensor(1)
               for i in range(40) for j in range(600)}
    checkpoint("start", tensors)
    said = create("never", "--from", "start", code=1)
    assert "one message of at most 1048576 bytes" in said and not os.path.exists("never"), said


def test_an_index_that_is_not_true_is_refused():
    checkpoint("whole", small())
    cut("whole", "start", 2)
    index = "start/model.safetensors.index.json"
    with open(index) as file:
        right = json.load(file)["weight_map"]
    write("outside.safetensors", safetensors(small()))

    def refused(weight_map, words, raw=None):
        write(index, raw or json.dumps({"weight_map": weight_map}))
        said = create("never", "--from", "start", code=1)
        assert words in said and not os.path.exists("never"), (words, said)
    for name in ("../outside.safetensors", os.path.abspath("outside.safetensors"),
                 "a/b.safetensors", ".hidden.safetensors", "config.json", ""):
        refused(dict(right, norm=name), "is not the name of a .safetensors file in this directory")
    refused(dict(right, norm="gone.safetensors"), "gone.safetensors")
    refused(dict(right, norm=5), "is mapped to something that is not a file name")
    refused(dict(right, norm=right["scale"] if right["scale"] != right["norm"] else
                 right["blocks.2.w"]), "is not in the file that the index names")
    refused(dict(right, more=right["norm"]), 'tensor "more" is not in the file')
    refused({name: at for name, at in right.items() if name != "norm"}, "is not in the index")
    refused(None, "weight_map", "{}")
    refused(None, "line 1", "{,")
    mine = {name: t for name, t in small().items() if right[name] == right["norm"]}
    other = next(at for at in right.values() if at != right["norm"])
    theirs = {name: t for name, t in small().items() if right[name] == other}
    write(f"start/{other}", safetensors(dict(theirs, norm=mine["norm"])))  # in both
    refused(right, "is not in the file that the index names, or in another as well")
    write(f"start/{other}", safetensors(theirs))
    write(index, json.dumps({"weight_map": right}))
    create("made", "--from", "start")


# ---- adapters ----------------------------------------------------------------------------------
def adapter(directory):
    tensors = {"base_model.model.h.0.attn.lora_A.weight": tensor(2, 4),
               "base_model.model.h.0.attn.lora_B.weight": tensor(4, 2, value=0)}
    os.makedirs(directory)
    write(os.path.join(directory, "adapter_model.safetensors"), safetensors(tensors))
    write(os.path.join(directory, "adapter_config.json"), json.dumps(
        {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "base",
         "target_modules": ["attn"]}))
    return tensors


def test_an_adapter_is_trained_alone_and_its_base_is_named_by_digest():
    tensors = adapter("lora")
    checkpoint("base", small())
    checkpoint("other", dict(small(), norm=tensor(4)))
    said = create("never", "--from", "lora", code=1)
    assert "is an adapter: give the frozen model that it is for with --base" in said, said
    said = create("never", "--from", "base", "--base", "base", code=1)
    assert "only an adapter" in said and not os.path.exists("never"), said
    create("run", "--from", "lora", "--base", "base")
    create("cut", "--from", "lora", "--base", cut("base", "parts", 2))
    create("changed", "--from", "lora", "--base", "other")
    named = manifest_of("run")
    assert named["base"] == manifest_of("cut")["base"] != manifest_of("changed")["base"]
    assert named["base"] != "none"
    assert export("run", "out") == tensors
    assert not os.path.exists("out/model.safetensors") and not os.path.exists("out/config.json")
    with open("out/adapter_config.json") as one, open("lora/adapter_config.json") as other:
        assert one.read() == other.read()


def test_an_adapter_that_could_be_something_else_is_refused():
    adapter("lora")
    checkpoint("base", small())
    shutil.copytree("lora", "both")
    shutil.copy("base/model.safetensors", "both")
    shutil.copytree("lora", "cut")
    cut("base", "parts", 2)
    for name in os.listdir("parts"):
        shutil.copy(os.path.join("parts", name), "cut")
    shutil.copytree("lora", "alone")
    os.remove("alone/adapter_config.json")
    for options, words in ((["--from", "both", "--base", "base"], "holds a model and an adapter"),
                           (["--from", "cut", "--base", "base"], "holds a model and an adapter"),
                           (["--from", "lora", "--base", "both"], "holds a model and an adapter"),
                           (["--from", "lora", "--base", "lora"], "is an adapter: name the model"),
                           (["--from", "alone", "--base", "base"], "lacks adapter_config.json"),
                           (["--from", "lora/adapter_model.safetensors"], "name its directory")):
        said = create("never", *options, code=1)
        assert words in said and not os.path.exists("never"), (options, said)


# ---- sites --------------------------------------------------------------------------------------
def test_a_site_checks_its_copy_and_how_it_trains_before_the_invitation_is_used():
    tensors = adapter("lora")
    checkpoint("base", small())
    checkpoint("other", dict(small(), norm=tensor(4)))
    changed = dict(tensors)
    changed["base_model.model.h.0.attn.lora_B.weight"] = tensor(4, 2, value=5)
    adapter("lora-2")
    write("lora-2/adapter_model.safetensors", safetensors(changed))
    federation = Federation(PROGRAMS, "federation", MANIFEST,
                            create=["--from", os.path.abspath("lora"), "--base",
                                    os.path.abspath("base")])
    try:
        federation.start_coordinator()
        invitation = federation.invite("one")
        token = federation.token_file(invitation["token"])

        def join(*options, code=1):
            return run(NODE, "join", invitation["address"], "--token-file", token, "--dir", "site",
                       "--run=false", *options, code=code)
        for options, words in (
                ([], "the built-in trainer cannot train this run's model"),
                (["--data", federation.path("text.txt")], "start the node with --attach"),
                (["--attach", "--from", "lora-2"], "is not the run's initial checkpoint"),
                (["--attach", "--from", "base"], "is not in this model"),
                (["--attach", "--from", "gone"], "gone"),
                (["--attach", "--from", federation.path("text.txt")], "not a safetensors file"),
                (["--attach", "--base", "other"],
                 "is not the model that the run's adapter is for")):
            said = join(*options)
            assert words in said and "invitation is not used up" in said, (options, said)
        join("--attach", "--from", "lora", "--base", "base", code=0)
        with open("site/layout") as one, open(os.path.join(federation.run, "layout")) as other:
            assert one.read() == other.read()
        said = run(NODE, "validate", "--dir", "site")
        assert "16 parameters in 2 tensors, trained by a job that attaches" in said, said
        for options, words in ((["--attach=false"], "the built-in trainer cannot train"),
                               (["--base", "other"], "is not the model"),
                               (["--from", "lora-2"], "is not the run's initial checkpoint")):
            assert words in run(NODE, "validate", "--dir", "site", *options, code=1)
        with open("site/layout") as file:
            told = file.read()
        for content in (told.replace("F32", "BF16"), told[:-2], ""):
            write("site/layout", content)
            for verb in ("validate", "run"):
                said = run(NODE, verb, "--dir", "site", code=3)
                assert "site/layout, the list of the run's tensors" in said, said
                assert "RUN/layout" in said
        os.remove("site/layout")
        assert "site/layout, the list" in run(NODE, "run", "--dir", "site", code=3)
        write("site/layout", told)
        said = run(NODE, "run", "--dir", "site", "--attach=false", code=3)
        assert "the built-in trainer cannot train this run's model" in said, said
        said = run(NODE, "run", "--dir", "site", "--base", "other", code=3)
        assert "is not the model that the run's adapter is for" in said, said
        federation.coordinator.kill()
        said = run(os.path.join(PROGRAMS, "atoll-coordinator"), "--dir", federation.run, "--listen",
                   "127.0.0.1:0", "--heldout", federation.path("text.txt"), code=3)
        assert "the built-in trainer cannot train this run's model" in said, said
        os.rename(os.path.join(federation.run, "layout"), "layout-away")
        said = run(CTL, "model", "export", "--dir", federation.run, "--output", "out", code=1)
        assert "the list of the run's tensors" in said, said
    finally:
        federation.close()


def test_a_llama_in_bf16_is_trained_by_the_built_in_trainer_and_comes_out_as_it_came():
    plain = text()
    trainer("train", plain, *SMALL, "--steps", 1, "--export", "start", "--dtype", "bf16")
    # no sizes are given: they are config.json's
    federation = Federation(PROGRAMS, "federation", MANIFEST, create=["--from",
                                                                      os.path.abspath("start")])
    try:
        federation.start_coordinator()
        before = export(federation.run, "first")
        assert before == read_tensors("start")
        assert {kind for kind, _, _ in before.values()} == {"BF16"}
        sites = [federation.add_site("copy", "--from", os.path.abspath("start")),
                 federation.add_site("none")]
        for site in sites:
            federation.until("it contributes", lambda: len(site.receipts) >= 3, SECONDS)
        assert "snapshot_loaded" in sites[1].text() and "snapshot_" not in sites[0].text()
        codes = federation.stop_run(SECONDS)
        assert set(codes.values()) == {0}, (codes, sites[0].tail(), sites[1].tail())
        wrong = federation.audit()
        assert not wrong, wrong
        after = export(federation.run, "last")
        assert {n: t[:2] for n, t in after.items()} == {n: t[:2] for n, t in before.items()}
        assert after != before
        for site in sites:
            assert read_tensors(os.path.join(site.directory, "export")) == after
    finally:
        federation.close()


def of_one_tensor():
    """A run from the checkpoint `start`, and its coordinator."""
    checkpoint("start", {"w": tensor(256, 1024)})
    federation = Federation(PROGRAMS, "federation", MANIFEST, create=["--from",
                                                                      os.path.abspath("start")])
    federation.start_coordinator()
    return federation


def test_a_site_that_is_killed_before_the_model_has_come_asks_for_it_again():
    federation = of_one_tensor()
    try:
        site = federation.add_site("none", "--attach")
        for _ in range(3):
            federation.until("it asks", lambda: "model_is_fetched" in site.text(), SECONDS)
            site.kill()
            site.start()
        federation.until("it has it", lambda: "snapshot_loaded" in site.text() or
                         "checkpoint=true" in site.text(), SECONDS)
        federation.until("it is linked", lambda: site.status().get("linked"), SECONDS)
        site.kill()
        run(NODE, "export", "--dir", site.directory, "--export", "out")
        assert read_tensors("out") == read_tensors("start")
        assert not os.path.exists("out/config.json")  # this site has none
    finally:
        federation.close()


def test_a_site_without_a_copy_gets_the_model_although_the_only_snapshot_was_damaged():
    federation = of_one_tensor()
    try:
        blobs = [os.path.join(root, name) for root, _, names in os.walk(
            federation.path("run", "blobs")) for name in names]
        largest = max(blobs, key=os.path.getsize)
        with open(largest, "r+b") as file:
            file.seek(4096)
            byte = file.read(1)
            file.seek(4096)
            file.write(bytes([byte[0] ^ 1]))
        site = federation.add_site("none", "--attach")
        federation.until("it is linked", lambda: site.status().get("linked"), SECONDS)
        assert "snapshot_damaged" in federation.coordinator.text()
        assert site.end(SECONDS) == 0
        run(NODE, "export", "--dir", site.directory, "--export", "out")
        assert read_tensors("out") == read_tensors("start")
    finally:
        federation.close()


def test_a_site_that_is_stopped_before_the_model_has_come_keeps_no_zeros_in_its_place():
    federation = of_one_tensor()
    try:
        site = federation.add_site("none", "--attach")
        federation.until("it asks", lambda: "model_is_fetched" in site.text(), SECONDS)
        site.kill()
        federation.coordinator.kill()
        for folder in ("journal", "state", "payloads"):  # in case that it had come
            shutil.rmtree(os.path.join(site.directory, folder), ignore_errors=True)
        begun = site.text().count(" started ")
        site.start()
        federation.until("it works", lambda: site.text().count(" started ") > begun, SECONDS,
                         alive=False)
        assert site.end(SECONDS) == 0
        federation.start_coordinator()
        site.start()
        federation.until("it is linked", lambda: site.status().get("linked"), SECONDS)
        assert site.end(SECONDS) == 0
        run(NODE, "export", "--dir", site.directory, "--export", "out")
        assert read_tensors("out") == read_tensors("start")
    finally:
        federation.close()


if __name__ == "__main__":
    sys.exit(main(globals()))
