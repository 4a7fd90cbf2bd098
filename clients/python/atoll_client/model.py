"""The model itself: what snapshots hold and steps move, in fp32, the same bits as everywhere.

    model = Model(ledger); model.load(*snapshot(connection, site))
    for entry in steps: model.step(entry, payloads)     raises Untrue where the state root differs
"""
import numpy

from . import codec, signed
from .signed import Untrue


class Model:
    def __init__(self, ledger):
        m = self.manifest = ledger.manifest
        self.ledger, self.parameters = ledger, ledger.genesis.parameters
        self.fragments, self.dense = int(m["fragments"]), m["outer.mode"] == "dense"
        self.kind = m["codec.kind"]
        self.momentum_rate = numpy.float32(float(m["outer.momentum"]))
        self.version = 0
        self.counts, self.periods = [0] * self.fragments, [0] * self.fragments
        self.theta = numpy.zeros(self.parameters, numpy.float32)
        self.momentum, self.accumulated = self.theta.copy(), self.theta.copy()

    def root(self):
        return signed.state_root(self.theta.astype("<f4").tobytes())

    def load(self, descriptor, content):
        """Per fragment the contributions in D and the period (u32), theta and, in dense mode,
        momentum and accumulated."""
        arrays = 3 if self.dense else 1
        if len(content) != 8 * self.fragments + arrays * 4 * self.parameters:
            raise Untrue("a snapshot is not of this model's size")
        sums = numpy.frombuffer(content, "<u4", 2 * self.fragments)
        self.counts = [int(n) for n in sums[::2]]
        self.periods = [int(n) for n in sums[1::2]]
        values = numpy.frombuffer(content, "<f4", offset=8 * self.fragments)
        parts = values.astype(numpy.float32).reshape(arrays, self.parameters)
        self.theta = parts[0].copy()
        if self.dense:
            self.momentum, self.accumulated = parts[1].copy(), parts[2].copy()
        self.version = descriptor.version
        if self.root() != descriptor.root:
            raise Untrue("a snapshot's parameters have another state root than it names")

    def step(self, entry, payloads):
        """A step entry of the ledger, with the payloads of its parts by index."""
        if entry.version != self.version + 1:
            raise Untrue(f"a step to {entry.version} for a model at {self.version}")
        start, count = self.ledger.fragment_range(entry.fragment)
        parts = [(*codec.sent(self.kind, payloads[index], count), numpy.float32(scale))
                 for index, scale in entry.parts]
        move = self._dense if self.dense else self._sparse
        move(entry, slice(start, start + count), parts)
        self.version = entry.version
        if entry.root and self.root() != entry.root:
            raise Untrue(f"version {self.version} has another state root here than in the ledger")

    def _dense(self, entry, at, parts):
        """Delayed Nesterov, one contribution after the other."""
        fragment, rate = entry.fragment, numpy.float32(entry.rate)
        theta, momentum, d = self.theta[at], self.momentum[at], self.accumulated[at]
        for _, values, scale in parts:
            g = values * scale
            d += g
            if self.counts[fragment] == 0:  # another period holds once D is cleared
                self.periods[fragment] = entry.period
            n = numpy.float32(self.periods[fragment])
            self.counts[fragment] += 1
            if self.counts[fragment] >= self.periods[fragment]:
                momentum[:] = self.momentum_rate * momentum + d / n
                theta -= rate * (self.momentum_rate * momentum + g / n)
                d[:] = 0
                self.counts[fragment] = 0
            else:
                theta -= rate * (g / n)

    def _sparse(self, entry, at, parts):
        """Each coordinate moves by the mean over the parts that sent it."""
        theta = self.theta[at]
        total, senders = numpy.zeros_like(theta), numpy.zeros(len(theta), numpy.int64)
        for places, values, scale in parts:
            total[places] = total[places] + scale * values
            senders[places] += 1
        moved = senders > 0
        divisor = senders[moved].astype(numpy.float32)
        theta[moved] = theta[moved] - numpy.float32(entry.rate) * (total[moved] / divisor)
