"""What tests/inputs_test.sh runs: what users give to the programs is taken for what it is, or
refused with the reason."""
import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time

from script_test import (PREPARE, SMALL, TRAINER, main, need, read, run, text,  # noqa: F401
                         trainer, write)

PROGRAMS = os.path.dirname(TRAINER)
NODE, CTL, COORDINATOR, SIM = (os.path.join(PROGRAMS, name)
                               for name in ("atoll-node", "atollctl", "atoll-coordinator",
                                            "atoll-sim"))
SLOWDOWN = int(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)
SHAPE = {"vocabulary": 256, "hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 48,
         "context": 32}


def manifest(tokenizer="byte", **model):
    lines = ["name: inputs", f"tokenizer: {tokenizer}",
             "model:"] + [f"  {k}: {v}" for k, v in {**SHAPE, **model}.items()]
    return write("run.yaml", "\n".join(lines) + "\n")


@contextlib.contextmanager
def coordinator(*arguments):
    """A run made of run.yaml, and its coordinator. Gives what invites: a function from a site's
    name to `join`'s arguments."""
    run(CTL, "run", "create", "run", "--manifest", "run.yaml", *arguments)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen([COORDINATOR, "--dir", "run", "--listen", address],
                               stderr=subprocess.DEVNULL)

    def invite(name):
        end = time.monotonic() + 30 * SLOWDOWN
        while True:
            try:
                said = run(CTL, "--keys", "run/keys", "--server", address, "site", "invite",
                           "--name", name)
                with open("token-" + name, "w") as file:
                    file.write(re.search(r"ATOLL_TOKEN=(\S+)", said)[1])
                return ["join", address, "--token-file", os.path.abspath("token-" + name)]
            except AssertionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    try:
        yield invite
    finally:
        process.terminate()
        process.wait(30 * SLOWDOWN)


def tokens(name, count=4000, vocabulary=50304, code="H", header=None):
    """Frequent tokens have low numbers, as a tokenizer's do."""
    draw = random.Random(7)
    values = [min(int(vocabulary ** draw.random()) + draw.randrange(30), vocabulary - 1)
              for _ in range(count)]
    head = struct.pack("<256i", *header, count, *[0] * 253) if header else b""
    return write(name, head + struct.pack(f"<{count}{code}", *values))


def test_a_site_takes_only_files_of_the_kind_that_its_run_trains_on():
    manifest("external", vocabulary=50304)
    good = [tokens("raw"), tokens("llmc", header=(20240520, 1)),
            tokens("wide", code="I", header=(20240801, 7))]
    plain = text()
    packed = write("packed", gzip.compress(read(plain)))
    bad = [(plain, "is text"), (packed, "gzip"), (tokens("u32", code="I"), "32-bit tokens"),
           (tokens("u64", code="Q"), "64-bit tokens"), (write("book.bin", read(plain)), "is text"),
           (write("big", b"".join(read("raw")[i:i + 2][::-1] for i in range(0, 8000, 2))),
            "big-endian")]
    with coordinator() as invite:
        run(NODE, *invite("one"), "--dir", "site", "--data", good[0], "--no-run")
        for path in good:
            assert "tokens to train on" in run(NODE, "validate", "--dir", "site", "--data", path)
        for path, words in bad:
            for verb in ("validate", "run"):
                said = run(NODE, verb, "--dir", "site", "--data", path,
                           code=3 if verb == "run" else 1)
                assert path in said and words in said, said
        said = run(NODE, *invite("two"), "--dir", "other", "--data", plain, "--no-run", code=1)
        assert "is text" in said and not os.path.exists("other/site.json"), said
        write("site/node.yaml", read("site/node.yaml") + b"data_format: u32\n")
        assert "tokens to train on" in run(NODE, "validate", "--dir", "site", "--data", "u32")


def test_a_run_of_bytes_takes_text_and_shards_of_bytes_only():
    manifest(vocabulary=50304)  # rounded up, as for speed: still bytes
    plain = text()
    run(sys.executable, PREPARE, "--output", "shards", plain)
    with coordinator() as invite:
        run(NODE, *invite("one"), "--dir", "site", "--data", plain, "--no-run")
        for path in (plain, "shards/shard-00000.bin", write("renamed.bin", read(plain)),
                     write("shard", read("shards/shard-00000.bin"))):
            assert "tokens to train on" in run(NODE, "validate", "--dir", "site",
                                               "--data", path), path
        for path, words in ((tokens("a.bin"), "neither text"),
                            (tokens("b.bin", header=(20240520, 1)), "not a byte"),
                            (write("c", gzip.compress(read(plain))), "gzip"),
                            (write("d", "Gr\xfc\xdfe ".encode("latin-1") * 99), "UTF-8")):
            said = run(NODE, "validate", "--dir", "site", "--data", path, code=1)
            assert path in said and words in said, said
            run(NODE, "validate", "--dir", "site", "--data", path, "--data-format", "bytes")


def test_the_trainer_and_the_simulator_look_at_files_too():
    plain = text()
    write("federation.yaml",
          "duration: 20s\nmodel: {parameters: 300k}\nsites:\n  - {name: a, count: 2, step: 1s}\n")
    for path, words in ((write("t.gz", gzip.compress(read(plain))), "gzip"),
                        (tokens("u32.bin", code="I"), "32-bit tokens")):
        said = trainer("train", path, *SMALL[2:], "--vocabulary", 50304, "--steps", 1, code=2)
        assert path in said and words in said, said
        if words == "gzip":
            said = run(SIM, "train", "federation.yaml", "--data", path, code=1)
            assert path in said and words in said, said
    trainer("train", "u32.bin", "--data-format", "u32", *SMALL[2:], "--vocabulary", 50304,
            "--steps", 1)
    # a model that has a tokenizer does not read text as bytes; one with the byte tokenizer, or
    # none, does
    trainer("train", plain, *SMALL, "--steps", 1, "--export", "model")
    trainer("train", plain, "--start", "model", "--steps", 1)
    trainer("eval", "model", plain)
    told = json.loads(read("model/tokenizer.json"))
    told["model"]["vocab"] = {token: 255 - number
                              for token, number in told["model"]["vocab"].items()}
    write("model/tokenizer.json", json.dumps(told))
    for arguments in (("train", plain, "--start", "model", "--steps", 1), ("eval", "model", plain)):
        assert "--tokenizer" in trainer(*arguments, code=2)
        trainer(*arguments, "--data-format", "bytes")


def checkpoint(directory):
    """A small model with a tokenizer of its own, as somebody else's program leaves it; and the
    model: of a manifest that fits."""
    trainer("train", text(), *SMALL, "--no-tied", "--steps", 1, "--export", directory)
    config = json.loads(read(f"{directory}/config.json"))
    config.update(rope_theta=500.0, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=[2, 5],
                  pad_token_id=0, use_cache=True, transformers_version="4.46.3", rope_scaling=None)
    del config["rope_parameters"]
    write(f"{directory}/config.json", json.dumps(config))
    told = json.loads(read(f"{directory}/tokenizer.json"))
    told["model"]["vocab"] = {token: 255 - number
                              for token, number in told["model"]["vocab"].items()}
    write(f"{directory}/tokenizer.json", json.dumps(told))
    write(f"{directory}/generation_config.json",
          '{"do_sample": false, "eos_token_id": [2, 5], "temperature": 0.7}')
    for name in ("special_tokens_map.json", "tokenizer.model", "chat_template.jinja", "LICENSE"):
        write(f"{directory}/{name}", f"what {name} says\n")
    write(f"{directory}/processor_config.json", '{"any": "settings"}')
    write(f"{directory}/docs.json", '{"text": "not the"}\n{"text": "checkpoint\'s"}\n')
    return config, dict(context=64, rope_theta=500, norm_epsilon="1e-6", tied="false")


def create(directory, tokenizer="external", code=0, source="base", **model):
    path = manifest(tokenizer, **model)
    return run(CTL, "run", "create", directory, "--manifest", path, "--from", source, code=code)


def test_what_is_evaluated_as_text_is_text():
    plain = text()
    trainer("train", plain, *SMALL, "--steps", 1, "--export", "model")
    trainer("eval", "model", "--text", plain)
    for content, words in (
        (read(plain).decode().encode("utf-16-le"), "holds tokens"),
        (gzip.compress(read(plain)), "gzip"), (bytes(900), "never filled"),
        (("\u092e\u0947\u0930\u093e \u0928\u093e\u092e " * 90).encode("utf-16-le"), "UTF-16LE"),
        (read(tokens("shard")), "neither text")):
        said = trainer("eval", "model", "--text", write("file", content), code=2)
        assert words in said and "--data-format" not in said, said


def test_a_checkpoint_that_computes_otherwise_than_its_manifest_is_refused_with_both_values():
    config, fits = checkpoint("base")
    wrong = {"rope_theta": ("rope_theta is 500", "10000"),
             "norm_epsilon": ("rms_norm_eps is 1e-06", "1e-05"),
             "heads": ("num_attention_heads is 4", "2"),
             "kv_heads": ("num_key_value_heads is 2", "4"),
             "context": ("max_position_embeddings is 64", "32"),
             "vocabulary": ("vocab_size is 256", "300"),
             "tied": ("tie_word_embeddings is false", "true"),
             "ffn": ("intermediate_size is 48", "50")}
    for source in ("base", "base/model.safetensors"):
        for key, (there, here) in wrong.items():
            said = create("run", code=1, source=source, **{**fits, key: here})
            assert there in said and f"is {here}" in said and "config.json" in said, said
            assert not os.path.exists("run"), "it was made"
    for field, value in (("hidden_act", "gelu"),
                         ("rope_scaling", {"type": "linear", "factor": 2.0}), ("head_dim", 4)):
        write("base/config.json", json.dumps({**config, field: value}))
        said = create("run", code=1, **fits)
        assert field in said and "config.json" in said, said
    os.rename("base/config.json", "base/model_config.json")  # several checkpoints of one directory
    write("base/model_config.json", json.dumps(config))
    assert "rope_theta is 500" in create("run", code=1, source="base/model.safetensors",
                                         **{**fits, "rope_theta": 10000})
    os.rename("base/model_config.json", "base/config.json")
    assert "tokenizer of its own" in create("run", tokenizer="byte", code=1, **fits)
    said = run(CTL, "run", "create", "run", "--manifest", "run.yaml", "--from", "base",
               "--dry-run", code=1)
    assert "tokenizer of its own" in said, said
    create("run", **fits)


def same_but_tensors(directory, origin, config):
    exported = json.loads(read(f"{directory}/config.json"))
    for key, value in config.items():
        assert key in ("rope_scaling",) or exported[key] == value, (key, value, exported[key])
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json",
                 "special_tokens_map.json", "tokenizer.model",
                 "chat_template.jinja", "LICENSE", "processor_config.json"):
        assert read(f"{directory}/{name}") == read(f"{origin}/{name}"), name
    assert not os.path.exists(f"{directory}/docs.json"), "documents are not the model's"


def test_what_came_beside_a_checkpoint_comes_out_of_every_export():
    config, fits = checkpoint("base")
    create("made", **fits)
    run(CTL, "model", "export", "--dir", "made", "--output", "from-run")
    same_but_tensors("from-run", "base", config)
    trainer("train", "text", "--data-format", "bytes", "--start", "base", "--steps", 1,
            "--export", "trained")
    same_but_tensors("trained", "base", config)
    trainer("train", "text", "--data-format", "bytes", "--start", "base/model.safetensors",
            "--steps", 1, "--export", "again")
    same_but_tensors("again", "base", config)
    trainer("train", "text", "--data-format", "bytes", "--start", "trained", "--steps", 1,
            "--export", "trained")
    same_but_tensors("trained", "base", config)
    os.remove("base/generation_config.json")  # the ends of text must be there all the same
    trainer("train", "text", "--data-format", "bytes", "--start", "base", "--steps", 1,
            "--export", "more")
    assert json.loads(read("more/generation_config.json"))["eos_token_id"] == [2, 5]


def test_an_export_leaves_a_tokenizer_of_256_tokens_alone():
    checkpoint("base")
    own = read("base/tokenizer.json")
    os.makedirs("out")
    write("out/tokenizer.json", own)
    said = subprocess.run([TRAINER, "train", text(), *SMALL, "--steps", "1", "--export", "out"],
                          capture_output=True, text=True)
    assert said.returncode == 0 and "tokenizer_kept" in said.stderr, said.stderr
    assert read("out/tokenizer.json") == own
    trainer("train", tokens("shard", vocabulary=256), *SMALL, "--steps", 1, "--export", "none")
    assert not os.path.exists("none/tokenizer.json"), "tokens of a tokenizer are not bytes"
    trainer("train", text(), *SMALL, "--steps", 1, "--export", "bytes")
    assert json.loads(read("bytes/tokenizer.json"))["model"]["vocab"]["a"] == 97


def test_joining_again_replaces_a_typo_and_refuses_the_token_of_another():
    manifest()
    plain, other = text(), write(
        "typo.txt", "some text of another file, long enough for a sequence or two\n" * 9)
    with coordinator() as invite:
        one, two = invite("one"), invite("two")
        run(NODE, *one, "--dir", "site", "--data", other, "--no-run")
        os.remove(other)
        assert "typo.txt" in run(NODE, "validate", "--dir", "site", code=1)
        run(NODE, *one, "--dir", "site", "--data", plain, "--no-run")
        assert "tokens to train on" in run(NODE, "validate", "--dir", "site")
        before = read("site/node.yaml")
        run(NODE, *one, "--dir", "site", "--no-run")
        said = run(NODE, *one, "--dir", "site", "--data", write("t.gz", gzip.compress(read(plain))),
                   "--no-run", code=1)
        assert "gzip" in said and "stay as they were" in said, said
        said = run(NODE, *two, "--dir", "site", "--no-run", code=1)
        assert 'is site "one"' in said and "another --dir" in said, said
        assert "--address has no effect" in run(NODE, *one, "--dir", "site",
                                                "--address", "elsewhere:1", "--no-run", code=1)
        assert read("site/node.yaml") == before
        run(NODE, *two, "--dir", "second", "--data", plain, "--no-run")  # and it was not spent

def prepare(*arguments, code=0):
    """What was told, and the shards' tokens; or what was said."""
    said = run(sys.executable, PREPARE, *arguments, code=code)
    if code:
        return said
    told = json.loads(said)
    return told, b"".join(bytes(read(name)[1024::2]) for name in told["files"])


def test_prepare_data_takes_a_file_for_what_is_in_it():
    documents = ["one", "two\r\nthree", "ünï"]
    lines = "".join(json.dumps({"text": one, "body": one[::-1]}) + "\n" for one in documents)
    for number, name in enumerate(("a.jsonl", "a.json", "a.txt", "a")):
        assert prepare("--output", f"lines{number}",
                       write(name, lines))[1] == "".join(documents).encode(), name
        assert prepare("--output", f"body{number}", "--field", "body",
                       name)[1] == "".join(d[::-1] for d in documents).encode()
    assert prepare("--output", "kept", "--kind", "text", "a.json")[1] == lines.encode()
    for number, content in enumerate((json.dumps([{"text": d} for d in documents]),
                                      json.dumps([{"text": d} for d in documents], indent=1))):
        assert prepare("--output", f"array{number}",
                       write("b.json", content))[1] == "".join(documents).encode()
    assert prepare("--output", "one", write("c.json",
                                            json.dumps({"text": "alone"}, indent=2)))[1] == b"alone"
    assert "--field" in prepare("--output", "x", "--field", "nothing", "a.json", code=2)
    assert "--field" in prepare("--output", "x", "--field", "body", write("plain.txt", "words\n"),
                                code=2)
    assert "called JSON" in prepare("--output", "x", write("d.json", "words\n"), code=2)
    text_of = "a line\r\nanother\rthe last\n"
    assert prepare("--output", "ends",
                   write("ends.txt", text_of))[1] == text_of.encode(), "line ends are content"
    array = json.dumps([{"text": one, "body": one[::-1]} for one in documents], indent=1)
    for number, name in enumerate(("e.jsonl", "e.txt", "e")):
        assert prepare("--output", f"called{number}",
                       write(name, array))[1] == "".join(documents).encode(), name
        assert prepare("--output", f"member{number}", "--field", "body",
                       name)[1] == "".join(d[::-1] for d in documents).encode()
    done = subprocess.run([sys.executable, PREPARE, "--output", "other",
                           write("members.txt", lines.replace('"text"', '"content"'))],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "--field names another" in done.stderr, done.stderr
    assert prepare("--output", "json", write("code.txt",
                                             '{"a": 1}\nnot JSON\n'))[1] == b'{"a": 1}\nnot JSON\n'


def test_prepare_data_says_that_its_result_could_not_be_told():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, PREPARE, "--output", "whole", text()], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "stdout" in done.stderr and "whole" in done.stderr, done.stderr
    assert os.path.exists("whole/prepare-data.json")


def test_prepare_data_and_the_programs_know_the_same_formats():
    noise = bytes(random.Random(3).randrange(256) for _ in range(3000))
    shard = tokens("shard", header=(20240520, 1))
    heads = {"gzip": b"\x1f\x8b\x08\0", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\0",
             "bzip2": b"BZh91AY&SY", "lz4": b"\4\x22\x4d\x18", "zip": b"PK\3\4",
             "7z": b"7z\xbc\xaf\x27\x1c", "rar": b"Rar!\x1a\7", "snappy": b"\xff\6\0\0sNaPpY",
             "lzip": b"LZIP\1", "tar": b"a" * 257 + b"ustar", "NumPy": b"\x93NUMPY",
             "SQLite": b"SQLite format 3\0", "ELF": b"\x7fELF", "HDF5": b"\x89HDF\r\n\x1a\n",
             "Arrow": b"ARROW1\0\0", "safetensors": struct.pack("<Q", 64) + b'{"a"',
             "pickle": b"\x80\4\x95" + struct.pack("<Q", 100), "GGUF": b"GGUF\3\0\0\0",
             "Feather": b"FEA1", "Avro": b"Obj\1", "PDF": b"%PDF-1.7", "PNG": b"\x89PNG\r\n\x1a\n",
             "JPEG": b"\xff\xd8\xff", "UTF-16": b"\xff\xfea\0",
             "PyTorch": b"\x80\2\x8a\x0a\x6c\xfc",
             "Megatron": b"MMIDIDX\0\0", "Git LFS": b"version https://git-lfs.github.com/spec/v1\n"}
    for name, head in heads.items():
        path = write("file", head + noise)
        assert name in prepare("--output", "x", path, code=2), name
        assert name in trainer("train", path, *SMALL, "--steps", 1, code=2), name
    assert "shard" in prepare("--output", "x", shard, code=2)
    assert "control characters" in prepare("--output", "x", write("zeros", b"a\0" * 500), code=2)


def test_the_text_of_a_control_token_stays_text_unless_it_is_asked_for():
    tokenizers = need("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train([text()], tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.save("tokenizer.json")
    said = "before <|endoftext|> after"
    for arguments, ends in (((), 1), (("--control-tokens",), 2)):
        name = f"out{ends}"
        told = json.loads(run(sys.executable, PREPARE, "--output", name, "--tokenizer", ".",
                              "--end", "<|endoftext|>", *arguments, write("t", said)))
        values = struct.unpack(f"<{told['tokens']}H", read(told["files"][0])[1024:])
        assert list(values).count(0) == ends and values[-1] == 0, values
        assert tokenizer.decode(values, skip_special_tokens=False) == said + "<|endoftext|>"
        index = json.loads(read(f"{name}/prepare-data.json"))
        assert (index["tokenizer_digest"] == hashlib.sha256(read("tokenizer.json")).hexdigest() and
                index["token_bits"] == 16)
        assert index["shards"] == [{"file": "shard-00000.bin", "tokens": told["tokens"],
                                    "sha256": hashlib.sha256(read(told["files"][0])).hexdigest()}]
    assert "no effect" in run(sys.executable, PREPARE, "--output", "x", "--control-tokens", "t",
                              code=2)


def test_a_site_checks_its_shards_by_their_index_and_by_the_tokenizer_that_the_run_pins():
    need("tokenizers")
    words = {f"w{i}": i for i in range(300)}
    pinned = {"version": "1.0", "added_tokens": [], "normalizer": None,
              "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
              "decoder": None, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    write("tokenizer.json", json.dumps(pinned))
    write("other.json",
          json.dumps({**pinned, "model": {**pinned["model"],
                                          "vocab": {f"w{i}": 299 - i for i in range(300)}}}))
    write("small.json",
          json.dumps({**pinned,
                      "model": {**pinned["model"], "vocab": {f"w{i}": i for i in range(500)}}}))
    draw = random.Random(5)
    write("t.txt", " ".join(f"w{draw.randrange(300)}" for _ in range(9000)))
    for name in ("tokenizer", "other", "small"):
        run(sys.executable, PREPARE, "--output", name, "--tokenizer", f"{name}.json", "t.txt")
    run(sys.executable, PREPARE, "--output", "bytes", "t.txt")
    path = manifest("external", vocabulary=320)
    digest = hashlib.sha256(read("tokenizer.json")).hexdigest()
    write(path, read(path) + f"tokenizer_digest: {digest}\n".encode())
    with coordinator() as invite:
        run(NODE, *invite("one"), "--dir", "site", "--data", "tokenizer/shard-00000.bin",
            "--no-run")

        def validate(path, *more, code=1):
            return run(NODE, "validate", "--dir", "site", "--data", path, *more, code=code)

        assert "tokens to train on" in validate("tokenizer/shard-00000.bin", code=0)
        said = validate("other/shard-00000.bin")
        assert digest in said and hashlib.sha256(read("other.json")).hexdigest() in said, said
        assert "500 tokens" in validate("small/shard-00000.bin")
        assert "bytes" in validate("bytes/shard-00000.bin")
        raw = write("raw.bin", read("tokenizer/shard-00000.bin"))
        assert "no index" in validate(raw)
        assert "tokens to train on" in validate(raw, "--data-format", "llmc", code=0)
        whole = read("tokenizer/shard-00000.bin")
        write("tokenizer/shard-00000.bin", whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        assert "is damaged" in validate("tokenizer/shard-00000.bin")
        write("tokenizer/shard-00000.bin", whole)
        assert "tokens to train on" in validate("tokenizer/shard-00000.bin", code=0)
        assert b"sha256-" in read("site/data.seen"), "every start would read all of it"
        # as long, from another tokenizer
        write("tokenizer/shard-00000.bin", read("other/shard-00000.bin"))
        for verb in ("run", "validate"):
            said = run(NODE, verb, "--dir", "site", "--data", "tokenizer/shard-00000.bin",
                       code=3 if verb == "run" else 1)
            assert "another shard of that name" in said, said
        write("tokenizer/shard-00000.bin", whole)
        write("tokenizer/copied.bin", read("other/shard-00000.bin"))
        done = subprocess.run([NODE, "validate", "--dir", "site", "--data", "tokenizer/copied.bin",
                               "--data-format", "llmc"], capture_output=True, text=True)
        assert done.returncode == 0 and "shard_not_in_index" in done.stderr, done.stderr
        write("tokenizer/prepare-data.json", "{}")
        said = validate("tokenizer/shard-00000.bin")
        assert "prepare the data again" in said, said
    write(path, read(path).replace(b"external", b"byte"))
    assert "tokenizer_digest" in run(CTL, "run", "create", "no", "--manifest", path, code=1)


def test_shards_of_the_pinned_tokenizer_may_use_little_of_a_vocabulary_that_was_rounded_up():
    need("tokenizers")
    write("tokenizer.json",
          json.dumps({"version": "1.0", "added_tokens": [], "normalizer": None,
                      "pre_tokenizer": {"type": "Whitespace"},
                      "post_processor": None, "decoder": None,
                      "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(300)},
                                "unk_token": "w0"}}))
    draw = random.Random(5)
    write("t.txt", " ".join(f"w{draw.randrange(300)}" for _ in range(30000)))
    run(sys.executable, PREPARE, "--output", "shards", "--tokenizer", "tokenizer.json", "t.txt")
    path = manifest("external", vocabulary=1024)
    write(path, read(path) +
          f"tokenizer_digest: {hashlib.sha256(read('tokenizer.json')).hexdigest()}\n".encode())
    raw = write("raw.bin", read("shards/shard-00000.bin"))
    with coordinator() as invite:
        run(NODE, *invite("one"), "--dir", "site", "--data", "shards/shard-00000.bin", "--no-run")
        assert "another tokenizer" in run(NODE, "validate", "--dir", "site", "--data", raw, code=1)


def test_an_option_that_would_have_no_effect_is_refused_or_said():
    data = text()
    common = ["train", data, *SMALL, "--steps", 2]
    for option, value in (("save-every", 1), ("dtype", "bf16"), ("shard-size", "1MiB"),
                          ("sample", 10)):
        assert f"--{option} has no effect" in trainer(*common, f"--{option}", value, code=2)
    assert "--floor has no effect" in trainer(*common, "--schedule", "constant", "--floor", 0.1,
                                              code=2)
    trainer(*common, "--export", "model", "--dtype", "f32")
    assert "--preset" in trainer("train", data, "--start", "model", "--preset", "4m", "--steps", 1,
                                 code=2)
    assert "--heldout has no effect" in trainer("eval", "model", "--text", data, "--heldout", 0.5,
                                                code=2)
    assert "not both" in trainer("generate", "model", "--prompt", "a", "--tokens", "1", code=2)
    for steps in (3, 5):
        done = subprocess.run([TRAINER, "train", data, "--start", "model", "--state", "state",
                               "--steps", str(steps)], capture_output=True, text=True)
        assert (done.returncode == 0 and
                ("--start model is not read" in done.stderr) == (steps == 5)), done.stderr
    for verb, option, value in (("status", "data", data), ("eval", "device", "cuda"),
                                ("generate", "data", data), ("export", "threads", 2)):
        assert f"--{option} has no effect on `atoll-node {verb}`" in run(
            NODE, verb, "--dir", "site", f"--{option}", value, code=2)
    assert "--seeds has no effect" in run(SIM, "faults", "--seed", 7, "--seeds", 3, code=2)
    write("federation.yaml",
          "duration: 20s\nmodel: {parameters: 300k}\nsites:\n  - {name: a, count: 2, step: 1s}\n")
    assert "--preset has no effect" in run(SIM, "train", "federation.yaml",
                                           "--manifest", manifest(), "--preset", "1m",
                                           "--data", data, code=1)


if __name__ == "__main__":
    sys.exit(main(globals()))
