"""What scripts read: documents of text, JSON lines, JSON or Parquet. What a file is, its content
says, not its name; what is none of these is refused with what it seems to be, by the same rules as
the programs' own (model/data_format.h). Standard library only, except pyarrow for Parquet.
"""
import itertools
import json
import os
import re
import struct

HEAD = 4096
LOOKED_AT = 20  # lines of which a file's kind is told
CONTROLS = bytes(c for c in range(128) if c < 7 or 13 < c < 32 and c != 27 or c == 127)
UNPACK, WRONG = "unpack it first", "it has no text"
MAGICS = (("gzip", 0, b"\x1f\x8b\x08", UNPACK), ("zstd", 0, b"\x28\xb5\x2f\xfd", UNPACK),
          ("xz", 0, b"\xfd7zXZ\0", UNPACK), ("bzip2", 4, b"1AY&SY", UNPACK),
          ("lz4", 0, b"\x04\x22\x4d\x18", UNPACK), ("lzip", 0, b"LZIP\1", UNPACK),
          ("snappy", 0, b"\xff\x06\0\0sNaPpY", UNPACK), ("7z", 0, b"7z\xbc\xaf\x27\x1c", UNPACK),
          ("rar", 0, b"Rar!\x1a\x07", UNPACK), ("zip", 0, b"PK\3\4", UNPACK),
          ("zip", 0, b"PK\5\6", UNPACK), ("tar", 257, b"ustar", UNPACK),
          ("Arrow", 0, b"ARROW1\0\0", "write it as Parquet"),
          ("Feather", 0, b"FEA1", "write it as Parquet"), ("Avro", 0, b"Obj\1", WRONG),
          ("NumPy", 0, b"\x93NUMPY", WRONG), ("SQLite", 0, b"SQLite format 3\0", WRONG),
          ("LMDB", 16, b"\xde\xc0\xef\xbe", WRONG), ("HDF5", 0, b"\x89HDF\r\n\x1a\n", WRONG),
          ("ELF", 0, b"\x7fELF", WRONG), ("PyTorch", 0, b"\x80\2\x8a\x0a\x6c\xfc", WRONG),
          ("pickle", 0, b"\x80\2}q", WRONG), ("pickle", 0, b"\x80\2]q", WRONG),
          ("pickle", 0, b"\x80\3}q", WRONG), ("pickle", 0, b"\x80\3]q", WRONG),
          ("Megatron index", 0, b"MMIDIDX\0\0", WRONG), ("PNG", 0, b"\x89PNG\r\n\x1a\n", WRONG),
          ("JPEG", 0, b"\xff\xd8\xff", WRONG), ("PDF", 0, b"%PDF-", "take its text out first"),
          ("Git LFS pointer", 0, b"version https://git-lfs.github.com/",
           "`git lfs pull` fetches the file itself"),
          ("UTF-32 text", 0, b"\xff\xfe\0\0", "convert it: iconv -f UTF-32 -t UTF-8"),
          ("UTF-32 text", 0, b"\0\0\xfe\xff", "convert it: iconv -f UTF-32 -t UTF-8"),
          ("UTF-16 text", 0, b"\xff\xfe", "convert it: iconv -f UTF-16 -t UTF-8"),
          ("UTF-16 text", 0, b"\xfe\xff", "convert it: iconv -f UTF-16 -t UTF-8"))


class Fault(Exception):
    pass


def need(package, what):
    try:
        return __import__(package)
    except ImportError:
        raise Fault(f"{what} needs the Python package {package}: pip install {package}")


def foreign(head, size):
    """The name of the format that begins so, and what to do; None for what may be text."""
    for name, at, magic, advice in MAGICS:
        if head[at:at + len(magic)] == magic:
            return name, advice
    if len(head) < 16:
        return None
    length = struct.unpack("<Q", head[:8])[0]
    if head[8:9] == b"{" and head[9:10] in (b'"', b" ",
                                            b"}") and 2 <= length <= size - 8 and length < 1 << 27:
        return "safetensors", WRONG
    if (head[:1] == b"\x80" and head[1] in (4, 5) and head[2] == 0x95 and
        struct.unpack("<Q", head[3:11])[0] <= size - 11):
        return "pickle", WRONG
    if head[:4] == b"GGUF" and struct.unpack("<I", head[4:8])[0] < 256:
        return "GGUF", WRONG
    metadata = struct.unpack("<I", head[4:8])[0]
    if head[:4] == b"\xff" * 4 and metadata and metadata % 8 == 0 and metadata < size:
        return "Arrow", "write it as Parquet"
    magic, _, count = struct.unpack("<3I", head[:12])
    dated = re.fullmatch(r"20\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", str(magic))
    if dated and size in (1024 + 2 * count, 1024 + 4 * count):
        return "a shard of tokens", "the programs read it as it is"
    return None


def is_object(line):
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def is_array(path, field):
    """Of objects, and where the name says nothing each must have the member."""
    try:
        with open(path, "rb") as file:
            values = json.loads(file.read().removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return all(isinstance(value, dict) and
               (field is None or isinstance(value.get(field), str)) for value in values)


def looks_like_lines(path):
    """JSON lines, whatever their members."""
    with open(path, "rb") as file:
        first = [line.removeprefix(b"\xef\xbb\xbf").strip()
                 for line in itertools.islice(file, LOOKED_AT)]
    first = [line for line in first if line]
    return len(first) > 1 and all(is_object(line) for line in first)


def kind_of(path, field):
    """"parquet", "lines" of JSON, "json" or "text". Fault: it is none of these."""
    extension = os.path.splitext(path)[1].lower()
    with open(path, "rb") as file:
        head = file.read(HEAD)
        if head[:4] == b"PAR1" or extension == ".parquet":
            return "parquet"
        found = foreign(head, os.fstat(file.fileno()).st_size)
        if found:
            raise Fault(f"{path} is {found[0]}, not text: {found[1]}")
        called_lines = extension in (".jsonl", ".ndjson")
        begun = extension != ".json" and re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", head)
        if begun and is_array(path, None if called_lines else field):
            return "json"  # whatever it is called
        if called_lines:
            return "lines"
        file.seek(0)
        first = [line.removeprefix(b"\xef\xbb\xbf").strip()
                 for line in itertools.islice(file, LOOKED_AT)]
    first = [line for line in first if line]
    objects = bool(first) and all(is_object(line) for line in first)
    if extension == ".json":
        if objects and (len(first) > 1 or field in json.loads(first[0])):
            return "lines"
        return "json"
    # A name that says nothing, or says text: only where every line is what a line of documents is.
    return ("lines" if objects and
            all(isinstance(json.loads(line).get(field), str) for line in first) else "text")


def member(value, field, where):
    if not isinstance(value, dict) or not isinstance(value.get(field), str):
        raise Fault(f"{where}: no text in member \"{field}\"; --field names another")
    try:
        value[field].encode("utf-8")
    except UnicodeEncodeError:
        raise Fault(f"{where}: member \"{field}\" holds half a surrogate pair")
    return value[field]


def from_text(path, field):
    """One document, to the byte, line ends included; only a byte order mark is not text."""
    with open(path, "rb") as file:
        content = file.read().removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Fault(f"{path}: not UTF-8 at byte {error.start}")
    controls = len(content) - len(content.translate(None, CONTROLS))
    if controls * 20 > len(content):
        raise Fault(
            f"{path} is not text: {controls} of {len(content)} bytes are control characters")
    yield text


def from_lines(path, field):
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise Fault(f"{path}:{number}: not UTF-8 at byte {error.start} of the line")
            except (ValueError, RecursionError) as error:
                raise Fault(f"{path}:{number}: {error}")
            yield member(value, field, f"{path}:{number}")


def from_json(path, field):
    """An array of objects, a document each, or one object."""
    with open(path, "rb") as file:
        content = file.read().removeprefix(b"\xef\xbb\xbf")
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Fault(f"{path}: not UTF-8 at byte {error.start}")
    except (ValueError, RecursionError) as error:
        raise Fault(f"{path} is called JSON and is not JSON: {error}; --kind text takes it as text")
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        yield member(one, field, f"{path}: element {number}")


def from_parquet(path, field):
    need("pyarrow", path)
    import pyarrow.parquet
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except Exception as error:
        raise Fault(f"{path}: {error}")
    if field not in file.schema_arrow.names:
        raise Fault(
            f"{path}: no column \"{field}\"; there are {', '.join(file.schema_arrow.names)}")
    row = 0
    try:
        for batch in file.iter_batches(columns=[field]):
            for value in batch.column(0).to_pylist():
                if not isinstance(value, str):
                    raise Fault(f"{path}: row {row} of column \"{field}\" holds no text")
                yield value
                row += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Fault(f"{path}: row {row} or after: {error}")


READERS = {"text": from_text, "lines": from_lines, "json": from_json, "parquet": from_parquet}
