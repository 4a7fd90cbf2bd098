#!/usr/bin/env python3
"""A training job without torch, through the package python/atoll: step n adds 1 to parameter n of
the tests' manifest, so that the run's model shows which steps are in it, and how often. It writes a
line with n per step to FILE.

    attach_trainer.py FILE [--checkpoint FILE --every N] [--pause SECONDS] [--nan STEP]

By what its launcher says of ranks it is one of several replicas, in lockstep over a socket beside
FILE. A job that finds its checkpoint goes on from there; one that does not has steps of its own.
"""
import argparse
import ctypes
import json
import logging
import math
import os
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                "python"))
import atoll  # noqa: E402
from atoll import _launch  # noqa: E402

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


class Parameter:
    """What the package uses of a torch.nn.Parameter."""
    requires_grad, dtype = True, "torch.float32"

    def __init__(self, shape):
        self.shape, self.values = shape, (ctypes.c_float * math.prod(shape))()

    def dim(self):
        return len(self.shape)

    def numel(self):
        return len(self.values)

    def detach(self):
        return self

    def contiguous(self):
        return self

    def to(self, _):
        return self

    def data_ptr(self):
        return ctypes.addressof(self.values)


class Model:
    def __init__(self):
        self.parameters = {name: Parameter(shape) for name, shape in tensors()}
        self.places = [(p.values, i) for p in self.parameters.values()
                       for i in range(len(p.values))]

    def named_parameters(self):
        return self.parameters.items()

    def modules(self):
        return [self]


class Lockstep:
    """A byte from each rank to rank 0 and back. Who dies ends all."""

    def __init__(self, path, rank, world):
        self.others = []
        if world == 1:
            return
        if rank == 0:
            if os.path.exists(path):
                os.unlink(path)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(world)
            self.others = [listener.accept()[0] for _ in range(world - 1)]
        else:
            self.others = [socket.socket(socket.AF_UNIX)]
            while self.others[0].connect_ex(path) != 0:
                time.sleep(0.01)
        self.rank = rank

    def say(self, number):
        """Rank 0's number, once all are here."""
        for other in self.others if self.others and self.rank == 0 else ():
            self.receive(other)
        for other in self.others:
            other.sendall(number.to_bytes(8, "little"))
        for other in self.others if self.others and self.rank != 0 else ():
            number = self.receive(other)
        return number

    @staticmethod
    def receive(other):
        data = b""
        while len(data) < 8:
            part = other.recv(8 - len(data))
            if not part:
                sys.exit("a rank is gone")
            data += part
        return int.from_bytes(data, "little")


class Job:
    def __init__(self, options):
        self.options, self.model = options, Model()
        self.rank, world = _launch.rank_and_world()
        self.lockstep = Lockstep(options.file + ".socket", self.rank, world)
        self.log = os.open(options.file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.state, self.number = None, 0
        self.restore()
        self.number = self.lockstep.say(self.number)

    def restore(self):
        """Where its step begins: after the checkpoint, else after all that were ever trained."""
        if self.options.checkpoint and os.path.exists(self.options.checkpoint):
            with open(self.options.checkpoint) as file:
                saved = json.load(file)
            self.state, self.number = saved["state"], saved["number"]
            for name, parameter in self.model.named_parameters():
                ctypes.memmove(parameter.values, bytes.fromhex(saved["values"][name]),
                               len(parameter.values) * 4)
            return
        trained = os.pread(self.log, os.fstat(self.log).st_size, 0).split()
        self.number = max(map(int, trained), default=-1) + 1

    def save(self, site):
        saved = {"state": site.state_dict(), "number": self.number,
                 "values": {name: bytes(p.values).hex()
                            for name, p in self.model.named_parameters()}}
        if self.rank == 0:
            with open(self.options.checkpoint + ".new", "w") as file:
                json.dump(saved, file)
            os.rename(self.options.checkpoint + ".new", self.options.checkpoint)
            logging.info("saved at %d", self.number)

    def join(self):
        """None: the run is over."""
        while True:
            try:
                site = atoll.join(self.model, None, 32, state=self.state)
                logging.info("joined at %d lost=%d ahead=%d", self.number, site.lost, site.ahead)
                return site
            except atoll.AtollError as error:
                logging.info("%s", error)
                if "the run is over" in str(error):
                    return None
                if "attached already" in str(error) or "generation" in str(error):
                    sys.exit(str(error))
            time.sleep(0.05)

    def train(self):
        values, at = self.model.places[self.number % len(self.model.places)]
        values[at] += 1
        if self.number == self.options.nan:
            values[at] = math.nan
        if self.rank == 0:
            os.write(self.log, b"%d\n" % self.number)
        self.number += 1
        time.sleep(self.options.pause)

    def run(self):
        site, told = self.join(), 0
        while site:
            self.train()
            site.loss = 2.0
            self.lockstep.say(0)
            site.step()
            if site.inner_steps != told:
                told = site.inner_steps
                logging.info("h=%d", told)
            if self.options.checkpoint and self.number % self.options.every == 0:
                self.save(site)
            if self.lockstep.say(int(site.stopping)):
                break


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--checkpoint")
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--nan", type=int, default=-1)
    parser.add_argument("--pause", type=float, default=0.005)
    logging.basicConfig(level=logging.INFO, format="%(created).3f %(message)s")
    Job(parser.parse_args()).run()


if __name__ == "__main__":
    main()
