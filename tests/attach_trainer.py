#!/usr/bin/env python3
"""A training job without a model or a library: it moves a few parameters of the tests' manifest in
each step, over libatoll alone. It writes a line per step to FILE, so that tests can count what was
trained.

    attach_trainer.py FILE [--ranks N --rank R] [--generation G] [--pause SECONDS] [--nan STEP]
"""
import argparse
import ctypes
import math
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                "python"))
from atoll import _library  # noqa: E402

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 32, 2, 2, 1, 64  # of tests/federation_harness.py


def tensors():
    wide = HIDDEN * KV_HEADS // HEADS
    yield "model.embed_tokens.weight", (256, HIDDEN)
    for layer in range(LAYERS):
        for name, shape in (("input_layernorm", (HIDDEN,)), ("self_attn.q_proj", (HIDDEN, HIDDEN)),
                            ("self_attn.k_proj", (wide, HIDDEN)),
                            ("self_attn.v_proj", (wide, HIDDEN)),
                            ("self_attn.o_proj", (HIDDEN, HIDDEN)),
                            ("post_attention_layernorm", (HIDDEN,)),
                            ("mlp.gate_proj", (FFN, HIDDEN)), ("mlp.up_proj", (FFN, HIDDEN)),
                            ("mlp.down_proj", (HIDDEN, FFN))):
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (HIDDEN,)


class Job:
    def __init__(self, options):
        self.library, self.options, self.over = _library.load(), options, False
        self.log = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.random = random.Random(os.getpid())
        shapes = list(tensors())
        self.pieces = (_library.Piece * len(shapes))()
        self.values = []
        for piece, (name, shape) in zip(self.pieces, shapes):
            values = (ctypes.c_float * math.prod(shape))()
            self.values.append(values)
            piece.name, piece.dimensions = name.encode(), len(shape)
            piece.data = ctypes.addressof(values)
            for at, size in enumerate(shape):
                piece.shape[at] = piece.extent[at] = size

    def attach(self):
        """None: not now, or never where the run is over."""
        o, site = self.options, ctypes.c_void_p()
        given = _library.Options(directory=os.environ["ATOLL_DIR"].encode(), rank=o.rank,
                                 world=o.ranks, generation=o.generation, timeout_ms=60000)
        result = self.library.atoll_attach(ctypes.byref(given), ctypes.byref(site))
        if result == _library.OK:
            result = self.library.atoll_declare(site, self.pieces, len(self.pieces))
        while result == _library.OK:
            result = self.library.atoll_ready(site)
            if result != _library.LOAD:
                break
            result = self.library.atoll_applied(site)
        if result != _library.OK:
            print(self.library.atoll_message(site).decode(), flush=True)
            self.over = bool(self.library.atoll_stopping(site))
            self.library.atoll_detach(site)
            return None
        return site

    def train(self, step):
        for _ in range(64):
            values = self.random.choice(self.values)
            values[self.random.randrange(len(values))] += self.random.gauss(0, 0.01)
        if step == self.options.nan:
            self.values[0][5] = math.nan
        os.write(self.log, b"step\n")
        time.sleep(self.options.pause)

    def follow(self, site):
        """Until the run is over (True) or the node is away."""
        for step in range(1, 1 << 40):
            self.train(step)
            result = self.library.atoll_step(site, 32, 2.0)
            if result == _library.PUBLISH:
                result = self.library.atoll_published(site)
            elif result in (_library.ADD, _library.LOAD):
                result = self.library.atoll_applied(site)
            if self.library.atoll_stopping(site):
                return True
            if result != _library.OK:
                print(result, self.library.atoll_message(site).decode(), flush=True)
                return result != _library.AWAY

    def run(self):
        while not self.over:
            site = self.attach()
            if site:
                self.over = self.follow(site)
                self.library.atoll_detach(site)
            else:
                time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    for name, value in (("ranks", 1), ("rank", 0), ("generation", 0), ("nan", 0)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--pause", type=float, default=0.002)
    Job(parser.parse_args()).run()


if __name__ == "__main__":
    main()
