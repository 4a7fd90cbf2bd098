"""What tests/model_ecosystem_test.sh runs: the trainer's program, scripts/prepare-data, and transformers beside them."""
import json
import os
import struct
import subprocess
import sys
import tempfile

ROOT = os.environ.get("ATOLL_ROOT") or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRAINER = os.path.join(os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build/release/bin"), "atoll-trainer")
PREPARE = os.path.join(ROOT, "scripts/prepare-data")
SMALL = "--vocabulary 256 --hidden 32 --layers 2 --heads 4 --kv-heads 2 --ffn 48 --context 64 --sequences 8 --length 32".split()


class Skip(Exception):
    pass


def run(*arguments, code=0):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {' '.join(map(str, arguments))}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def trainer(*arguments, code=0):
    return run(TRAINER, *arguments, code=code)


def need(package):
    try:
        return __import__(package)
    except ImportError:
        raise Skip(f"{package} is not installed")


def write(name, content):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return name


def read(name):
    with open(name, "rb") as file:
        return file.read()


def text():
    return write("text", "".join(f"the {i % 13} small waves reach ring {i * i % 31} of the atoll.\n" for i in range(900)))


def test_training_resumed_from_its_state_equals_training_without_a_stop():
    data, common = text(), SMALL + ["--kernels", "portable", "--log-every", 5]
    trainer("train", data, *common, "--steps", 20, "--state", "whole", "--threads", 1, "--log", "log.csv", "--plot", "plot.svg")
    trainer("train", data, *common, "--steps", 20, "--state", "four", "--threads", 4)
    assert read("whole") == read("four"), "the number of threads shows"
    trainer("train", data, *common, "--steps", 13, "--schedule", "constant", "--state", "half", "--save-every", 6)
    trainer("train", data, *common, "--steps", 20, "--schedule", "constant", "--state", "half")
    trainer("train", data, *common, "--steps", 20, "--schedule", "constant", "--state", "straight")
    assert read("half") == read("straight")
    lines = read("log.csv").decode().splitlines()
    assert lines[0].startswith("step,tokens,loss") and len(lines) == 5, lines
    assert float(lines[-1].split(",")[2]) < float(lines[1].split(",")[2])
    assert read("plot.svg").startswith(b"<svg") and b"polyline" in read("plot.svg")
    import xml.dom.minidom
    xml.dom.minidom.parse("plot.svg")
    trainer("train", data, *common, "--steps", 22, "--state", "straight", "--log", "log.jsonl", "--evaluate-every", 1)
    points = [json.loads(line) for line in read("log.jsonl").splitlines()]
    assert [p["step"] for p in points] == [21, 22] and points[0]["heldout_loss"] > 0


def test_verbs_work_on_any_exported_directory():
    data = text()
    said = trainer("train", data, *SMALL, "--steps", 30, "--learning-rate", 0.01, "--export", "model", "--shard-size", "10KiB")
    assert os.path.exists("model/model.safetensors.index.json")
    nats = dict(w.split("=") for w in trainer("eval", "model", data, "--length", 32, "--kernels", "portable").split())["heldout_nats"]
    assert abs(float(nats) / float(dict(w.split("=") for w in said.split())["heldout_nats"]) - 1) < 0.05
    one = trainer("generate", "model", "--prompt", "the ", "--sample", 20, "--seed", 7, "--top-k", 9, "--top-p", 0.9)
    assert one.startswith("the ") and one == trainer("generate", "model", "--prompt", "the ", "--sample", 20, "--seed", 7,
                                                     "--top-k", 9, "--top-p", 0.9)
    assert one != trainer("generate", "model", "--prompt", "the ", "--sample", 20, "--seed", 8, "--top-k", 9, "--top-p", 0.9)
    assert len(trainer("generate", "model", "--tokens", "1,2 3", "--sample", 4).split()) == 7
    # trained on from an export, and exported again without a step: the same tensors
    trainer("train", data, "--start", "model", "--steps", 0, "--export", "again", "--shard-size", "10KiB")
    for name in sorted(os.listdir("model")):
        if "safetensors" in name and "index" not in name:
            a, b = read(f"model/{name}"), read(f"again/{name}")
            assert a[8 + struct.unpack("<Q", a[:8])[0]:] == b[8 + struct.unpack("<Q", b[:8])[0]:], name


def test_what_is_wrong_is_said_before_the_first_step():
    data = text()
    header = struct.pack("<256i", 20240520, 1, 1000, *[0] * 253)

    def refused(*words, arguments):
        said = trainer("train", *arguments, code=2)
        assert "trained" not in said and "step=" not in said, said
        for word in words:
            assert word in said, f"{word!r} is not in {said!r}"

    refused("cut.bin", "promises 1000 tokens", arguments=[write("cut.bin", header + b"\1\0" * 999)])
    refused("odd.bin", "odd number", arguments=[write("odd.bin", b"\1\0\2")])
    refused("old.bin", "version 2", arguments=[write("old.bin", struct.pack("<256i", 20240520, 2, 0, *[0] * 253))])
    refused("big.bin", "token 300", "vocabulary of 256", arguments=[write("big.bin", header + b"\1\0" * 999 + b"\x2c\x01")])
    refused("nothing", "empty", arguments=[write("nothing", b"")])
    refused("absent", "No such file", arguments=["absent"])
    refused("no preset", "300k", arguments=[data, "--preset", "7x"])
    trainer("train", data, *SMALL, "--steps", 1, "--export", "model")
    refused("config.json", "hidden_size", "64", arguments=[data, "--start", "model", "--hidden", 64])
    config = read("model/config.json").decode()
    write("model/config.json", config.replace('"silu"', '"gelu"'))
    refused("config.json", "hidden_act", arguments=[data, "--start", "model"])
    write("model/config.json", config.replace('"intermediate_size": 48', '"intermediate_size": 50'))
    refused("mlp.gate_proj", "shape", arguments=[data, "--start", "model"])
    said = trainer("train", data, "--preset", "8b", "--sequences", 4, "--length", 4096, code=1)
    assert "memory: training takes" in said and "fits" in said, said


def test_prepare_data_writes_shards_that_the_trainer_reads():
    write("a.txt", "hello " * 300)
    write("b.jsonl", "".join(json.dumps({"text": f"line {i} of ünïcode. "}) + "\n" for i in range(100)))
    told = json.loads(run(PREPARE, "--output", "bytes", "--end", 10, "--shard-tokens", 2000, "a.txt", "b.jsonl"))
    whole = b"hello " * 300 + b"\n" + b"".join(f"line {i} of ünïcode. \n".encode() for i in range(100))
    got = b"".join(bytes(read(f)[1024::2]) for f in told["files"])
    assert got == whole and told["tokens"] == len(whole) and told["documents"] == 101 and len(told["files"]) > 1
    trainer("train", *told["files"], *SMALL, "--steps", 2)
    for arguments, words in [((write("bad.jsonl", '{"text":"x"}\n{"tex":1}\n'),), ["bad.jsonl:2", "--field"]),
                             ((write("cut.jsonl", '{"text":"x"'),), ["cut.jsonl:1"]), (("absent",), ["absent"]),
                             ((write("latin.txt", b"\xff\xfe\xfd"),), ["latin.txt", "UTF-8"]),
                             ((write("void.txt", b""),), ["no text"]), (("a.txt", "--end", 256), ["beyond the vocabulary"])]:
        said = run(PREPARE, "--output", "refused", *arguments, code=2)
        assert all(word in said for word in words), said


def test_prepare_data_names_the_package_that_it_lacks():
    write("sitecustomize.py", "import sys\nfor n in ('tokenizers', 'pyarrow'): sys.modules[n] = None\n")
    os.environ["PYTHONPATH"] = os.getcwd()
    try:
        said = run(sys.executable, PREPARE, "--output", "x", "--tokenizer", "t.json", write("t.txt", "text"), code=2)
        assert "pip install tokenizers" in said, said
        said = run(sys.executable, PREPARE, "--output", "x", write("t.parquet", b"PAR1"), code=2)
        assert "pip install pyarrow" in said, said
    finally:
        del os.environ["PYTHONPATH"]


def test_prepare_data_uses_a_hugging_face_tokenizer():
    tokenizers = need("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train([text()], tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.save("tokenizer.json")
    told = json.loads(run(sys.executable, PREPARE, "--output", "tokens", "--tokenizer", ".", "--end", "<end>", "text"))
    assert told["vocabulary"] == tokenizer.get_vocab_size(), told
    ids = tokenizer.encode(read("text").decode()).ids + [tokenizer.token_to_id("<end>")]
    assert read(told["files"][0])[1024:] == struct.pack(f"<{len(ids)}H", *ids)
    said = trainer("train", *told["files"], *SMALL, "--steps", 2, code=2)
    assert "beyond the vocabulary of 256" in said or max(ids) < 256, said


def config_of(transformers, **changes):
    return transformers.LlamaConfig(**{**dict(
        vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=64, rope_theta=500.0, rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None), **changes})


def logits_agree(torch, model, directory, tolerance, kernels):
    tokens = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    ours = torch.tensor(json.loads(trainer("logits", directory, "--kernels", kernels, "--tokens", " ".join(map(str, tokens)))))
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([tokens])).logits[0].float()
    worst = (ours - theirs).abs().max().item()
    assert worst <= tolerance, f"logits differ by {worst}"
    assert theirs.std() > 0.1, "too flat to tell"


def scrambled(torch, model):
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn_like(tensor) * 0.2 + (tensor.dim() == 1))
    return model


def test_transformers_opens_the_export_and_gives_the_same_logits():
    torch, transformers = need("torch"), need("transformers")
    data = text()
    for tied in ("--tied", "--no-tied"):
        trainer("train", data, *SMALL, tied, "--steps", 40, "--learning-rate", 0.01, "--export", "model", "--shard-size", "12KiB")
        model = transformers.LlamaForCausalLM.from_pretrained("model", dtype=torch.float32, attn_implementation="eager")
        logits_agree(torch, model, "model", 1e-4, "portable")
        tokenizer = transformers.AutoTokenizer.from_pretrained("model")
        assert tokenizer("atoll ü")["input_ids"] == list("atoll ü".encode())
        assert tokenizer.decode(list("atoll ü".encode())) == "atoll ü"
        kernels = trainer("eval", "model", data).split("kernels=")[1].split()[0]
        logits_agree(torch, model, "model", 1e-4 if "bf16" not in kernels else 0.05, kernels)  # 8 bits of each product's inputs


def test_a_checkpoint_that_transformers_wrote_imports_and_returns_unchanged():
    torch, transformers = need("torch"), need("transformers")
    from safetensors.torch import load_file
    for tied in (False, True):
        for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16"), (torch.float16, "f16")):
            model = scrambled(torch, transformers.LlamaForCausalLM(config_of(transformers, tie_word_embeddings=tied))).to(dtype)
            shards = "20KB" if name == "f32" else "5GB"
            directory = f"theirs-{name}-{tied}"
            model.save_pretrained(directory, max_shard_size=shards)
            wide = transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
            logits_agree(torch, wide, directory, 1e-4, "portable")
            back = f"ours-{name}-{tied}"
            trainer("train", text(), "--start", directory, "--steps", 0, "--length", 16, "--export", back, "--dtype", name)
            got = load_file(f"{back}/model.safetensors")
            wanted = {}
            for file in os.listdir(directory):
                if file.endswith(".safetensors"):
                    wanted.update(load_file(f"{directory}/{file}"))
            assert set(got) == set(wanted), set(got) ^ set(wanted)
            assert all(got[k].dtype == wanted[k].dtype and torch.equal(got[k], wanted[k]) for k in got)
    config_of(transformers, attention_bias=True).save_pretrained("theirs-f32-True")
    assert "attention_bias" in trainer("logits", "theirs-f32-True", "--tokens", "1", code=2)


def main():
    if not os.path.exists(TRAINER):
        subprocess.run(["make", "-s", "-C", ROOT, "trainer"], check=True)
    passed = failed = 0
    chosen = sys.argv[1:]
    for name, body in list(globals().items()):
        if not name.startswith("test_") or (chosen and name[5:] not in chosen):
            continue
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                body()
                print("ok  ", name[5:])
                passed += 1
            except Skip as skip:
                print("SKIP", name[5:], "-", skip)
            except Exception as error:
                print("FAIL", name[5:], "-", type(error).__name__, error)
                failed += 1
            os.chdir("/")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
