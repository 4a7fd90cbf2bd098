"""What tests/scripts_prepare_data_test.sh runs: scripts/prepare-data, and the trainer reading what
it wrote."""
import json
import os
import struct
import subprocess
import sys
import time

from script_test import PREPARE, SMALL, main, need, read, run, text, trainer, write


def test_writes_shards_that_the_trainer_reads():
    write("a.txt", "hello " * 300)
    write("b.jsonl",
          "".join(json.dumps({"text": f"line {i} of ünïcode. "}) + "\n" for i in range(100)))
    told = json.loads(run(PREPARE, "--output", "bytes", "--end", 10, "--shard-tokens", 2000,
                          "a.txt", "b.jsonl"))
    whole = b"hello " * 300 + b"\n" + b"".join(f"line {i} of ünïcode. \n".encode()
                                               for i in range(100))
    got = b"".join(bytes(read(f)[1024::2]) for f in told["files"])
    assert (got == whole and told["tokens"] == len(whole) and told["documents"] == 101 and
            len(told["files"]) > 1)
    trainer("train", *told["files"], *SMALL, "--steps", 2)
    for arguments, words in [((write("bad.jsonl", '{"text":"x"}\n{"tex":1}\n'),),
                              ["bad.jsonl:2", "--field"]),
                             ((write("cut.jsonl", '{"text":"x"'),), ["cut.jsonl:1"]),
                             (("absent",), ["absent"]),
                             ((write("latin.txt", b"\xff\xfe\xfd"),), ["latin.txt", "UTF-8"]),
                             ((write("void.txt", b""),), ["no text"]),
                             (("a.txt", "--end", 256), ["beyond the vocabulary"])]:
        said = run(PREPARE, "--output", "refused", *arguments, code=2)
        assert all(word in said for word in words), said
        assert not os.path.exists("refused") and not os.path.exists("refused.partial")


def test_names_the_package_that_it_lacks():
    write("sitecustomize.py",
          "import sys\nfor n in ('tokenizers', 'pyarrow'): sys.modules[n] = None\n")
    os.environ["PYTHONPATH"] = os.getcwd()
    try:
        said = run(sys.executable, PREPARE, "--output", "x", "--tokenizer", "t.json",
                   write("t.txt", "text"), code=2)
        assert "pip install tokenizers" in said, said
        said = run(sys.executable, PREPARE, "--output", "x", write("t.parquet", b"PAR1"), code=2)
        assert "pip install pyarrow" in said, said
    finally:
        del os.environ["PYTHONPATH"]


def test_uses_a_hugging_face_tokenizer():
    tokenizers = need("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train([text()], tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.save("tokenizer.json")
    told = json.loads(run(sys.executable, PREPARE, "--output", "tokens", "--tokenizer", ".",
                          "--end", "<end>", "text"))
    assert told["vocabulary"] == tokenizer.get_vocab_size(), told
    ids = tokenizer.encode(read("text").decode()).ids + [tokenizer.token_to_id("<end>")]
    assert read(told["files"][0])[1024:] == struct.pack(f"<{len(ids)}H", *ids)
    said = trainer("train", *told["files"], *SMALL, "--steps", 2, code=2)
    assert "beyond the vocabulary of 256" in said or max(ids) < 256, said


def test_a_bad_line_is_named_by_its_number_whatever_is_wrong_with_it():
    good = b'{"text":"a"}\n'
    for line, word in ((b'{"text":"\xff"}', "UTF-8"), (b'{"text":"x"', ":3:"),
                       (b'{"body":"x"}', "--field"), (b'{"text":7}', "--field"),
                       (b'["x"]', "--field"), (b'{"text":"\\ud800"}', "surrogate"),
                       (b"[" * 100000, ":3:")):
        said = run(PREPARE, "--output", "out",
                   write("bad.jsonl", good + b"\n" + line + b"\n" + good), code=2)
        assert "bad.jsonl:3" in said and word in said and "Traceback" not in said, said
    run(PREPARE, "--output", "body", "--field", "body", write("other.jsonl", '{"body":"x"}'))


def test_documents_are_held_out_by_what_they_say_and_not_by_where_they_stand():
    lines = [json.dumps({"text": f"document {i}."}) for i in range(400)]

    def split(output, some):
        told = json.loads(run(PREPARE, "--output", output, "--end", 10, "--heldout", 0.25,
                              write("d.jsonl", "\n".join(some))))
        part = lambda name: {d for f in told["files"] if name in f
                             for d in bytes(read(f)[1024::2]).decode().splitlines()}
        return part("train-"), part("heldout-"), told

    train, heldout, told = split("a", lines)
    assert not train & heldout and len(train |
                                       heldout) == 400 and 60 < len(heldout) < 140, len(heldout)
    assert told["heldout_tokens"] == sum(len(d) + 1 for d in heldout)
    train2, heldout2, _ = split("b", lines[::-2])
    assert train2 <= train and heldout2 <= heldout
    assert "--heldout" in run(PREPARE, "--output", "c", "--heldout", 0.7, "d.jsonl", code=2)


def test_a_kill_leaves_no_directory_and_the_same_command_begins_anew():
    write("d.jsonl",
          "".join(json.dumps({"text": f"document {i} " * 20}) + "\n" for i in range(30000)))
    command = [PREPARE, "--output", "out", "--shard-tokens", "5000", "d.jsonl"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not os.path.exists("out.partial/shard-00001.bin"):
        time.sleep(0.002)
    process.kill()
    assert process.wait() != 0, "it was done before it was killed"
    assert os.path.exists("out.partial") and not os.path.exists("out")
    write("out.partial/shard-99999.bin", b"left over")
    write("d.jsonl", read("d.jsonl")[:20000].rsplit(b"\n", 1)[0])
    told = json.loads(run(*command))
    assert not os.path.exists("out.partial")
    assert sorted(os.listdir("out")) == sorted([os.path.basename(f) for f in told["files"]] +
                                               ["prepare-data.json"])
    before = os.stat("out/shard-00000.bin").st_mtime_ns
    assert (json.loads(run(*command)) == told and
            os.stat("out/shard-00000.bin").st_mtime_ns == before), "done twice"
    said = run(*command, "--end", "10", code=2)
    assert "not empty" in said and os.stat("out/shard-00000.bin").st_mtime_ns == before, said


def wide_tokenizer():
    tokenizers = need("tokenizers")
    words = {f"w{i}": i for i in range(70000)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save("tokenizer.json")


def test_a_vocabulary_above_65536_makes_32_bit_shards():
    wide_tokenizer()
    told = json.loads(run(sys.executable, PREPARE, "--output", "out", "--tokenizer", ".",
                          "--end", "w2", write("t.txt", "w69999 w1 w65536")))
    assert told["vocabulary"] == 70000, told
    assert read(told["files"][0]) == struct.pack("<256i4I", 20240801, 7, 4, *[0] * 253, 69999, 1,
                                                 65536, 2)


def test_32_bit_shards_are_read_by_the_trainer_token_by_token():
    wide_tokenizer()
    words = [i * 7 % 65000 for i in range(200)]
    words[150] = 69999  # the only one beyond 16 bits: read in halves it would be 4463 and 1
    told = json.loads(run(sys.executable, PREPARE, "--output", "out", "--tokenizer", ".",
                          write("t.txt", " ".join(f"w{i}" for i in words))))
    shape = ("--hidden 8 --layers 1 --heads 2 --kv-heads 1 --ffn 8 --context 16 --sequences 4 "
             "--length 16 --steps 1".split())
    trainer("train", *told["files"], *shape, "--vocabulary", 70000)
    said = trainer("train", *told["files"], *shape, "--vocabulary", 69999, code=2)
    assert "token 69999 at 150 is beyond the vocabulary of 69999" in said, said
    whole = read(told["files"][0])
    said = trainer("train", write("cut.bin", whole[:-4]), *shape, "--vocabulary", 70000, code=2)
    assert "promises 200 tokens" in said, said
    said = trainer("train", write("changed.bin", whole[:1027] + b"\x01" + whole[1028:]), *shape,
                   "--vocabulary", 70000, code=2)
    assert f"token {words[0] + (1 << 24)} at 0" in said, said


def test_parquet_columns_are_documents():
    pyarrow = need("pyarrow")
    import pyarrow.parquet
    documents = [f"row {i} of ünïcode" for i in range(5000)]
    pyarrow.parquet.write_table(pyarrow.table({"body": documents, "n": list(range(5000))}),
                                "d.parquet", row_group_size=700)
    command = [sys.executable, PREPARE, "--end", 10, "--output"]
    told = json.loads(run(*command, "out", "--field", "body", "d.parquet"))
    assert bytes(read(told["files"][0])[1024::2]).decode().splitlines() == documents
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), "null.parquet")
    whole = read("d.parquet")
    for arguments, words in ((["d.parquet"], ["no column", "body, n"]),
                             (["--field", "n", "d.parquet"], ["row 0", "no text"]),
                             (["null.parquet"], ["row 1"]),
                             ([write("cut.parquet", whole[:len(whole) // 2])], ["cut.parquet"]),
                             (["--field", "body",
                               write("bad.parquet", whole[:300] + b"\xff" * 300 + whole[600:])],
                              ["bad.parquet"])):
        said = run(*command, "refused", *arguments, code=2)
        assert all(word in said for word in words) and "Traceback" not in said, said


if __name__ == "__main__":
    sys.exit(main(globals()))
