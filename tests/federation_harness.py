"""What the tests of a federation add to scripts/federation.py: a tiny model, and text that is in
every checkout."""
import os
import resource
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                "scripts"))
import federation  # noqa: E402
from federation import ROOT, Failure  # noqa: E402, F401

MODEL = """name: {name}
model:
  hidden: 32
  layers: 2
  heads: 2
  kv_heads: 1
  ffn: 64
  context: 32
inner:
  learning_rate: 1e-3
  inner_steps: {inner_steps}
"""


def manifest(name="tiny", inner_steps=3, mode="sparse", sites=3, fragments=1, **more):
    """`more`: further keys, dots written as two underscores: merge__quorum=2."""
    keys = {"fragments": fragments, "merge": {"quorum": 1, "warmup_steps": 0, "staleness_cap": 64}}
    if mode == "dense":
        keys["outer"] = {"mode": "dense", "period": sites}
        keys["codec"] = {"kind": "int8"}
    for key, value in more.items():
        at, names = keys, key.split("__")
        for part in names[:-1]:
            at = at.setdefault(part, {})
        at[names[-1]] = value
    text = MODEL.format(name=name, inner_steps=inner_steps)
    for key, value in keys.items():
        if isinstance(value, dict):
            text += f"{key}:\n" + "".join(f"  {inner}: {one}\n" for inner, one in value.items())
        else:
            text += f"{key}: {value}\n"
    return text


def write_text(path, size=200_000):
    """Something to train on that is in every checkout."""
    text = b""
    for folder in ("docs", "base", "fed", "node"):
        for name in sorted(os.listdir(os.path.join(ROOT, folder))):
            if len(text) < size and name.endswith((".md", ".c", ".h")):
                with open(os.path.join(ROOT, folder, name), "rb") as file:
                    text += file.read()
    with open(path, "wb") as file:
        file.write(text[:size])


class Federation(federation.Federation):
    def __init__(self, programs, output, manifest_text, **more):
        super().__init__(programs, output, manifest_text, **more)
        write_text(self.path("text.txt"))

    def limit_descriptors(self, limit):
        """Of the coordinator, before its first start."""
        self.coordinator = Limited("coordinator", [], self.path("logs", "coordinator.log"))
        self.coordinator.options, self.coordinator.limit = [], limit


class Limited(federation.Process):
    def start(self, arguments=None, preexec=None):
        def few():
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.limit, self.limit))
        super().start(arguments, few)
