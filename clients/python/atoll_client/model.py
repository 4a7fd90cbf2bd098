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
        self.momentum_rate = numpy.float32(float(m["outer.momentum"]))
        self.version = 0
        self.counts, self.periods = [0] * self.fragments, [0] * self.fragments
        self.theta = numpy.zeros(self.parameters, numpy.float32)
        self.momentum, self.accumulated = self.theta.copy(), self.theta.copy()
        self.senders = numpy.zeros(self.parameters, numpy.uint16)

    def root(self):
        return signed.state_root(self.theta.astype("<f4").tobytes())

    def load(self, descriptor, content):
        """Per fragment the contributions in D or S and the period (u32), theta, then momentum and D
        in dense mode, S and n (u16) in sparse mode."""
        arrays, each = (3, 12) if self.dense else (2, 10)
        if len(content) != 8 * self.fragments + each * self.parameters:
            raise Untrue("a snapshot is not of this model's size")
        sums = numpy.frombuffer(content, "<u4", 2 * self.fragments)
        self.counts = [int(n) for n in sums[::2]]
        self.periods = [int(n) for n in sums[1::2]]
        values = numpy.frombuffer(content, "<f4", arrays * self.parameters, 8 * self.fragments)
        parts = values.astype(numpy.float32).reshape(arrays, self.parameters)
        self.theta, self.accumulated = parts[0].copy(), parts[-1].copy()
        if self.dense:
            self.momentum = parts[1].copy()
        else:
            at = len(content) - 2 * self.parameters
            self.senders = numpy.frombuffer(content, "<u2", offset=at).astype(numpy.uint16)
        self.version = descriptor.version
        if self.root() != descriptor.root:
            raise Untrue("a snapshot's parameters have another state root than it names")

    def step(self, entry, payloads):
        """A step entry of the ledger, with the payloads of its parts by index."""
        if entry.version != self.version + 1:
            raise Untrue(f"a step to {entry.version} for a model at {self.version}")
        start, count = self.ledger.fragment_range(entry.fragment)
        kinds = {index: codec.NAMES.get(payloads[index][0]) for index, _ in entry.parts}
        parts = [(*codec.sent(kinds[index], payloads[index], count), numpy.float32(scale))
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
            ends = self._takes_one(entry)
            n = numpy.float32(self.periods[fragment])
            if ends:
                momentum[:] = self.momentum_rate * momentum + d / n
                theta -= rate * (self.momentum_rate * momentum + g / n)
                d[:] = 0
            else:
                theta -= rate * (g / n)

    def _sparse(self, entry, at, parts):
        """Each coordinate goes to the mean over the parts of the round, so far, that sent it."""
        theta, total, senders = self.theta[at], self.accumulated[at], self.senders[at]
        rate, one = numpy.float32(entry.rate), numpy.float32(1)
        for places, values, scale in parts:
            n = senders[places].astype(numpy.float32)
            before = numpy.where(n > 0, total[places] / numpy.maximum(n, one), numpy.float32(0))
            total[places] = total[places] + scale * values
            senders[places] += 1
            theta[places] = theta[places] - rate * (total[places] / (n + one) - before)
            if self._takes_one(entry):
                total[:], senders[:] = 0, 0

    def _takes_one(self, entry):
        """Whether the contribution ends a round. Another period holds once the sum is cleared."""
        fragment = entry.fragment
        if self.counts[fragment] == 0:
            self.periods[fragment] = entry.period
        self.counts[fragment] += 1
        if self.counts[fragment] < self.periods[fragment]:
            return False
        self.counts[fragment] = 0
        return True
