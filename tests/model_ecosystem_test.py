"""What tests/model_ecosystem_test.sh runs: the trainer's program, and transformers' checkpoints and
logits beside its own.

Tolerances of logits. fp32: 1e-4; both sides sum the same products in other orders. bf16 kernels
round the two inputs of every product to 8 bits and keep sums and residual in fp32; transformers in
bf16 rounds those too, so our logits must lie no further from its fp32 ones than its own bf16 logits
do, whatever the weights; and those of a model that was trained within 0.05 as well."""
import json
import os
import shutil
import struct
import sys

from script_test import SMALL, main, need, read, text, trainer, write

BF16_LARGEST = 0.05


def test_training_resumed_from_its_state_equals_training_without_a_stop():
    data, common = text(), SMALL + ["--kernels", "portable", "--log-every", 5]
    trainer("train", data, *common, "--steps", 20, "--state", "whole", "--threads", 1,
            "--log", "log.csv", "--plot", "plot.svg")
    trainer("train", data, *common, "--steps", 20, "--state", "four", "--threads", 4)
    assert read("whole") == read("four"), "the number of threads shows"
    trainer("train", data, *common, "--steps", 13, "--schedule", "constant", "--state", "half",
            "--save-every", 6)
    trainer("train", data, *common, "--steps", 20, "--schedule", "constant", "--state", "half")
    trainer("train", data, *common, "--steps", 20, "--schedule", "constant", "--state", "straight")
    assert read("half") == read("straight")
    lines = read("log.csv").decode().splitlines()
    assert lines[0].startswith("step,tokens,loss") and len(lines) == 5, lines
    assert float(lines[-1].split(",")[2]) < float(lines[1].split(",")[2])
    assert read("plot.svg").startswith(b"<svg") and b"polyline" in read("plot.svg")
    import xml.dom.minidom
    xml.dom.minidom.parse("plot.svg")
    trainer("train", data, *common, "--steps", 22, "--state", "straight", "--log", "log.jsonl",
            "--evaluate-every", 1)
    points = [json.loads(line) for line in read("log.jsonl").splitlines()]
    assert [p["step"] for p in points] == [21, 22] and points[0]["heldout_loss"] > 0


def test_verbs_work_on_any_exported_directory():
    data = text()
    said = trainer("train", data, *SMALL, "--steps", 30, "--learning-rate", 0.01,
                   "--export", "model", "--shard-size", "10KiB")
    assert os.path.exists("model/model.safetensors.index.json")
    nats = dict(w.split("=") for w in trainer("eval", "model", data, "--length", 32,
                                              "--kernels", "portable").split())["heldout_nats"]
    assert abs(float(nats) / float(dict(w.split("=") for w in said.split())["heldout_nats"]) -
               1) < 0.05
    one = trainer("generate", "model", "--prompt", "the ", "--sample", 20, "--seed", 7,
                  "--top-k", 9, "--top-p", 0.9)
    assert one.startswith("the ") and one == trainer("generate", "model", "--prompt", "the ",
                                                     "--sample", 20, "--seed", 7,
                                                     "--top-k", 9, "--top-p", 0.9)
    assert one != trainer("generate", "model", "--prompt", "the ", "--sample", 20, "--seed", 8,
                          "--top-k", 9, "--top-p", 0.9)
    assert len(trainer("generate", "model", "--tokens", "1,2 3", "--sample", 4).split()) == 7
    # trained on from an export, and exported again without a step: the same tensors
    trainer("train", data, "--start", "model", "--steps", 0, "--export", "again",
            "--shard-size", "10KiB")
    for name in sorted(os.listdir("model")):
        if "safetensors" in name and "index" not in name:
            a, b = read(f"model/{name}"), read(f"again/{name}")
            assert a[8 +
                     struct.unpack("<Q", a[:8])[0]:] == b[8 + struct.unpack("<Q", b[:8])[0]:], name


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
    refused("old.bin", "version 2",
            arguments=[write("old.bin", struct.pack("<256i", 20240520, 2, 0, *[0] * 253))])
    refused("big.bin", "token 300", "vocabulary of 256",
            arguments=[write("big.bin", header + b"\1\0" * 999 + b"\x2c\x01")])
    refused("nothing", "empty", arguments=[write("nothing", b"")])
    refused("absent", "No such file", arguments=["absent"])
    refused("no preset", "300k", arguments=[data, "--preset", "7x"])
    trainer("train", data, *SMALL, "--steps", 1, "--export", "model")
    refused("config.json", "hidden_size", "64",
            arguments=[data, "--start", "model", "--hidden", 64])
    config = read("model/config.json").decode()
    write("model/config.json", config.replace('"silu"', '"gelu"'))
    refused("config.json", "hidden_act", arguments=[data, "--start", "model"])
    write("model/config.json", config.replace('"intermediate_size": 48', '"intermediate_size": 50'))
    refused("mlp.gate_proj", "shape", arguments=[data, "--start", "model"])
    said = trainer("train", data, "--data-format", "bytes", "--preset", "8b", "--sequences", 4,
                   "--length", 4096, code=1)
    assert "memory: training takes" in said and "fits" in said, said


def libraries():
    torch, transformers = need("torch"), need("transformers")
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def config_of(transformers, **changes):
    return transformers.LlamaConfig(**{**dict(
        vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64, rope_theta=500.0,
        rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None),
                                       **changes})


def opened(directory, dtype="float32"):
    """transformers' model of a directory. Version 5 says dtype where version 4 said torch_dtype."""
    torch, transformers = libraries()
    word = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model, told = transformers.LlamaForCausalLM.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True,
        **{word: getattr(torch, dtype)})
    assert not any(told[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    return model.eval()


def theirs(model, tokens):
    torch = need("torch")
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].float()


def ours(directory, tokens, kernels):
    return need("torch").tensor(json.loads(trainer("logits", directory, "--kernels", kernels,
                                                   "--tokens", " ".join(map(str, tokens)))))


def all_kernels(directory):
    return trainer("logits", directory, "--tokens", "1", "--kernels", "?",
                   code=2).split("it can run ")[1].strip().split(", ")


def check_logits(directory, bf16_largest=float("inf")):
    torch = need("torch")
    tokens = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    wanted = theirs(opened(directory), tokens)
    assert wanted.std() > 0.1, "too flat to tell"
    their_bf16 = (theirs(opened(directory, "bfloat16"), tokens) - wanted).abs().max().item()
    for kernels in all_kernels(directory):
        bf16 = "bf16" in kernels or "amx" in kernels
        tolerance = min(bf16_largest, their_bf16) if bf16 else 1e-4
        worst = (ours(directory, tokens, kernels) - wanted).abs().max().item()
        # NaN fails
        assert worst <= tolerance, f"logits of {kernels} differ by {worst}; {tolerance} is allowed"
        print(f"     {directory}: {kernels} logits within {worst:.2g}",
              f"of fp32 (transformers in bf16: {their_bf16:.2g})" if bf16 else "")


def scrambled(torch, model):
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn_like(tensor) * 0.2 + (tensor.dim() == 1))
    return model


def tensors(directory):
    """Every tensor of a checkpoint, by the format's own description: name -> (dtype, shape,
    bytes)."""
    found = {}
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".safetensors"):
            continue
        file = read(f"{directory}/{name}")
        size, = struct.unpack("<Q", file[:8])
        for tensor, told in json.loads(file[8:8 + size]).items():
            if tensor != "__metadata__":
                assert tensor not in found, tensor
                start, end = told["data_offsets"]
                found[tensor] = told["dtype"], told["shape"], file[8 + size + start:8 + size + end]
    return found


def same_tensors(a, b):
    a, b = tensors(a), tensors(b)
    assert a and set(a) == set(b), set(a) ^ set(b)
    differ = [name for name in a if a[name] != b[name]]
    assert not differ, differ


def test_transformers_opens_the_export_and_gives_the_same_logits():
    libraries()
    data = text()
    for tied in ("tied", "no-tied"):
        for size in ("5GiB", "12KiB"):
            name = f"{tied}-{size}"
            trainer("train", data, *SMALL, f"--{tied}", "--steps", 40, "--learning-rate", 0.01,
                    "--export", name, "--shard-size", size)
            assert os.path.exists(f"{name}/model.safetensors.index.json") == (size == "12KiB")
            check_logits(name, BF16_LARGEST)
        same_tensors(f"{tied}-5GiB", f"{tied}-12KiB")


def test_attention_heads_may_be_grouped_in_any_way():
    torch, transformers = libraries()
    for heads, kv_heads in ((4, 4), (4, 1), (6, 3), (1, 1)):
        name = f"heads-{heads}-{kv_heads}"
        scrambled(torch, transformers.LlamaForCausalLM(config_of(
            transformers, hidden_size=heads * 8, num_attention_heads=heads,
            num_key_value_heads=kv_heads))).save_pretrained(name)
        check_logits(name)


def test_the_exported_tokenizer_is_the_byte_tokenizer():
    _, transformers = libraries()
    trainer("train", text(), *SMALL, "--steps", 1, "--export", "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    for words in ("atoll \u00fc", " two  spaces\n\ttab", "\u65e5\u672c \U0001f3dd",
                  "it's 1999, don't", ""):
        assert tokenizer(words)["input_ids"] == list(words.encode()), words
        assert tokenizer.decode(list(words.encode()),
                                clean_up_tokenization_spaces=False) == words, words
    assert len(tokenizer) == 256


def test_a_checkpoint_that_transformers_wrote_imports_and_returns_unchanged():
    torch, transformers = libraries()
    data = text()
    for tied in (False, True):
        for dtype, name in (("float32", "f32"), ("bfloat16", "bf16"), ("float16", "f16")):
            for size in ("5GB", "20KB"):
                directory = f"theirs-{name}-{'tied' if tied else 'own-head'}-{size}"
                model = scrambled(torch, transformers.LlamaForCausalLM(
                    config_of(transformers, tie_word_embeddings=tied)))
                model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=size)
                assert os.path.exists(f"{directory}/model.safetensors.index.json") == (
                    size == "20KB")
                if size == "20KB":
                    check_logits(directory)
                back = directory.replace("theirs", "ours")
                trainer("train", data, "--start", directory, "--steps", 0, "--length", 16,
                        "--export", back, "--dtype", name)
                same_tensors(directory, back)
                reopened = opened(back, dtype).state_dict()
                assert all(torch.equal(v, reopened[k]) for k, v in model.state_dict().items())


def test_what_real_models_add_to_their_files_changes_nothing():
    torch, transformers = libraries()
    import safetensors.torch
    model = scrambled(torch, transformers.LlamaForCausalLM(config_of(transformers)))
    model.save_pretrained("plain")
    wanted = ours("plain", [1, 2, 3], "portable")
    for name, changes in (
        ("smollm2", dict(is_llama_config=True, rope_interleaved=False)),
        ("unsloth", dict(unsloth_version="2024.9", unsloth_fixed=True, pad_token_id=4)),
        ("llama2-chat", dict(max_length=4096, temperature=0.9, pretraining_tp=1, pad_token_id=0)),
        ("swish", dict(hidden_act="swish")),
        ("linear-by-one", dict(rope_scaling={"type": "linear", "factor": 1.0})),
        ("unknown", dict(some_training_note="of 2024", tool_run_number=12)), ("frequencies", {})):
        shutil.copytree("plain", name)
        config = {**json.loads(read(f"{name}/config.json")), **changes}
        write(f"{name}/config.json", json.dumps(config))
        if name == "frequencies":
            tensors = safetensors.torch.load_file(f"{name}/model.safetensors")
            for layer in range(config["num_hidden_layers"]):
                tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
            safetensors.torch.save_file(tensors, f"{name}/model.safetensors", {"format": "pt"})
        assert torch.equal(ours(name, [1, 2, 3], "portable"), wanted), name
        again = transformers.LlamaForCausalLM.from_pretrained(
            name, attn_implementation="eager").float().eval()
        # it computes the same from such a file
        assert (theirs(again, [1, 2, 3]) - wanted).abs().max() <= 1e-4, name


def test_an_exports_tokenizer_and_model_generate_together():
    _, transformers = libraries()
    trainer("train", text(), *SMALL, "--steps", 2, "--export", "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    encoded = tokenizer("the waves", return_tensors="pt")
    assert sorted(encoded) == ["attention_mask", "input_ids"], sorted(encoded)
    model = opened("model")
    model(**encoded)  # takes no other names
    try:
        out = model.generate(**encoded, max_new_tokens=3, do_sample=False)
    # Debian's PyTorch 1.13 cannot load what generate() imports in Python 3.11
    except ValueError as error:
        assert "mutable default" in str(error), error
        return
    assert (out.shape[1] == encoded["input_ids"].shape[1] + 3 and
            tokenizer.decode(out[0]).startswith("the waves"))


def test_what_transformers_wrote_and_we_do_not_compute_is_refused_by_name():
    _, transformers = libraries()
    for changes, word in ((dict(attention_bias=True), "attention_bias"),
                          (dict(mlp_bias=True), "mlp_bias"),
                          (dict(hidden_act="gelu"), "hidden_act"), (dict(head_dim=16), "head_dim"),
                          (dict(attention_dropout=0.5), "attention_dropout")):
        model = transformers.LlamaForCausalLM(config_of(transformers, **changes))
        model.save_pretrained(word)
        said = trainer("logits", word, "--tokens", "1", code=2)
        assert word in said and "config.json" in said, said


if __name__ == "__main__":
    sys.exit(main(globals()))
