"""Writes tests/golden/tokenizer_*.json and tokenizer_vectors.txt: small byte-level BPEs cut as
GPT-2, Llama 3 and Qwen cut, and what the `tokenizers` package makes of hard texts.
    python tests/golden/tokenizer.py    (needs `pip install tokenizers`)

A line of the vectors: name, blank, the text in hexadecimal, blank, its tokens with commas."""
import json
import os
import unicodedata

from tokenizers import (Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
TEXTS = ["", "a", " ", "Hello world", "don't WE'LL they'RE 'x it'ſ", "x  y   z    ",
         "  \n\n  a\r\n b\t\tc \n", "1 12 123 1234 12345 ٣٤٥٦ ⅫⅫ x²",
         "Müller ça naïve Ελλάδα Привет мир 你好世界 日本語テキスト 한국어", "emoji 👩‍👩‍👧 🇩🇪 👍🏽!",
         "a+b==c; // ... -> {[(x)]}", "é é ą́ क्षि नमस्ते",
         "nb\u00a0sp\u2003em\u3000id\u0085nel\u2028ls\u200bzw",
         "<|begin|>user<|end|>\n<|end|><|begin|>", "<|begin", "the the the theory\nother",
         "ALLCAPS CamelCase snake_case kebab-case", "\u0001\u007f\x1c\x1d x", "a" * 300,
         "\U00010d40\ua7cb\u1c89 \U0001e030", "http://x.y/z?q=1&r=%20#f\n\n\n", "😀😀  😀",
         "ﬁ Ⅷ ǅ ʰ ª", "tab\tend\t", "'''''' \"\"\"", "\n", "\r\n\r\n x",
         "हिन्दी में क़ ख़ ग़ ज़ ड़ ढ़ फ़ य़", "\u0958\u0959 \u0915\u093c",
         "e\u0301 a\u0323\u0307 a\u0307\u0323 \u1e9b\u0323",
         "\u1112\u1161\u11ab\u1100\u1173\u11af \ud55c", "\u212b \u2126 \uf900 \u0344 x\u0345\u0301",
         "<|begin|>e\u0301<|end|>", "x \u3000 <|begin|>  y <|end|> \n z<|begin|><|end|>  <|begin|>"]
CORPUS = [" ".join(["the theory of other things, don't they'll we're it's 123 4567 hello world",
                    "Hello World naïve Привет мир 你好 世界 camelCase", "  indent\n\n    more\n",
                    "a+b == c; // -> {x}"])] * 20 + ["".join(map(chr, range(32, 1200)))]


def made(name, pre, normalizer=None, template=False, ignore=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(CORPUS,
                          trainers.BpeTrainer(vocab_size=420,
                                              special_tokens=["<|begin|>", "<|end|>"],
                                              show_progress=False,
                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if template:
        t.post_processor = processors.Sequence(
            [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
                single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B",
                special_tokens=[("<|begin|>", t.token_to_id("<|begin|>"))])])
    t.save(os.path.join(HERE, f"tokenizer_{name}.json"), pretty=False)
    return name, t


def stripped(name, of):
    """gpt2's, whose added tokens take blanks with them, with a post-processor of BERT's kind."""
    with open(os.path.join(HERE, f"tokenizer_{of}.json")) as file:
        told = json.load(file)
    told["added_tokens"][0]["lstrip"] = told["added_tokens"][1]["rstrip"] = True
    begin, end = ([token["content"], token["id"]] for token in told["added_tokens"])
    told["post_processor"] = {"type": "RobertaProcessing", "sep": end, "cls": begin,
                              "trim_offsets": True, "add_prefix_space": False}
    with open(os.path.join(HERE, f"tokenizer_{name}.json"), "w") as file:
        json.dump(told, file, separators=(",", ":"), ensure_ascii=False)
    return name, Tokenizer.from_file(os.path.join(HERE, f"tokenizer_{name}.json"))


def split(pattern, *more):
    return pre_tokenizers.Sequence([*more, pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False,
                                                             use_regex=False)])


def main():
    all_of_them = [
        made("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        made("llama3", split(LLAMA3), template=True, ignore=True),
        made("qwen", split(QWEN), normalizer=normalizers.NFC()), made("o200k", split(O200K)),
        made("digits", pre_tokenizers.Sequence([pre_tokenizers.Digits(True),
                                                pre_tokenizers.ByteLevel(add_prefix_space=False)]))]
    all_of_them.append(stripped("strip", "gpt2"))
    with open(os.path.join(HERE, "tokenizer_vectors.txt"), "w") as out:
        for name, t in all_of_them:
            for text in TEXTS:
                ids = t.encode(text).ids
                if name == "strip":
                    ids = ids[:-1]  # what is after a text is not ours to write
                same = unicodedata.normalize("NFC", text) if name == "qwen" else text
                assert name == "strip" or t.decode(t.encode(text, add_special_tokens=False).ids,
                                                   skip_special_tokens=False) == same, (name, text)
                out.write(f"{name} {text.encode().hex() or '-'} {','.join(map(str, ids)) or '-'}\n")


main()
