"""Deltas as bytes: docs/codec.md's six codecs, encoder and decoder, and the norm that is signed.

    message, sent = encode("int8", delta)     sent: what every decoder will see, fp32
    values = decode("int8", message, count)   raises Invalid for what no encoder writes
    norm(values)                              the header's `norm`, bit for bit

Vectors are numpy arrays of fp32. Written for reading: a million elements take about a second in
topk2, a few hundredths in the dense codecs.
"""
import math
import struct

import numpy

from .signed import CODEC_CODES as CODES

NAMES = {code: name for name, code in CODES.items()}
BLOCK, CHUNK, LANES = 128, 4096, 16
PREFIX = struct.Struct("<BBHQ")
RICE_MAX, RUN_RICE_MAX, SHIFT_MAX, LARGE_SQUARED = 12, 7, 126, 2.25
FLT_MAX, FLT_MIN = float(numpy.finfo(numpy.float32).max), 2.0 ** -126


class Invalid(ValueError):
    """Input that cannot be encoded, or a message that breaks its format."""


def check(holds, what):
    if not holds:
        raise Invalid(what)


def bits_of(values):
    return numpy.ascontiguousarray(values, numpy.float32).view(numpy.uint32)


def norm(values):
    """L2 norm in docs/codec.md's order of summation."""
    total = 0.0
    for at in range(0, len(values), CHUNK):
        block = numpy.zeros(CHUNK)
        part = numpy.asarray(values[at:at + CHUNK], numpy.float64)
        block[:len(part)] = part * part
        lanes = numpy.zeros(LANES)
        for row in block.reshape(-1, LANES):
            lanes += row
        width = LANES // 2
        while width:
            lanes[:width] += lanes[width:2 * width]
            width //= 2
        total += float(lanes[0])
    return math.sqrt(total)


def encode(codec, values):
    values = numpy.ascontiguousarray(values, numpy.float32)
    check(numpy.isfinite(values).all(), "a value is not finite")
    make, _, options = CODECS[codec]
    payload, sent = make(values, **options)
    return PREFIX.pack(CODES[codec], 1, 0, len(values)) + payload, sent


def decode(codec, message, count):
    check(len(message) >= PREFIX.size, "no whole prefix")
    check(PREFIX.unpack_from(message) == (CODES[codec], 1, 0, count),
          f"not {count} elements in {codec}, format 1")
    _, read, options = CODECS[codec]
    values = read(message[PREFIX.size:], count, **options)
    check(numpy.isfinite(values).all(), "a value is not finite")
    return values


def sent(codec, message, count):
    """(places, values): what the sender sent, all of it in the dense codecs."""
    values = decode(codec, message, count)
    if codec.startswith("topk2"):
        return topk2_read(message[PREFIX.size:], count, **CODECS[codec][2])
    return numpy.arange(count), values


class ErrorFeedback:
    """What topk2 did not send: it comes with the next message."""

    def __init__(self, codec, count):
        self.codec, self.error = codec, numpy.zeros(count, numpy.float32)

    def encode(self, delta):
        e = self.error * numpy.float32(0.95) + numpy.asarray(delta, numpy.float32)
        message, sent = encode(self.codec, e)
        self.error = e - sent
        return message, sent

    def restore(self, sent):
        """The message was refused: its mass goes back."""
        self.error += sent


# ---- dense ---------------------------------------------------------------------------------------

def fp32_encode(values):
    return values.astype("<f4").tobytes(), values.copy()


def fp32_decode(payload, count):
    check(len(payload) == 4 * count, "wrong size")
    return numpy.frombuffer(payload, "<f4").astype(numpy.float32)


def bf16_encode(values):
    bits = bits_of(values).astype(numpy.uint64)
    size = bits & 0x7FFFFFFF
    size = numpy.minimum((size + 0x7FFF + (size >> 16 & 1)) >> 16, 0x7F7F)
    return finish_bf16((size | bits >> 31 << 15).astype("<u2"))


def finish_bf16(halves):
    return halves.tobytes(), (halves.astype(numpy.uint32) << 16).view(numpy.float32)


def bf16_decode(payload, count):
    check(len(payload) == 2 * count, "wrong size")
    return finish_bf16(numpy.frombuffer(payload, "<u2"))[1]


def blocks_of(array):
    """One row per block; the last one filled up with zeroes."""
    rows = -(-len(array) // BLOCK)
    out = numpy.zeros((rows, BLOCK), array.dtype)
    out.reshape(-1)[:len(array)] = array
    return out


def split_scales(payload, count, codes_size):
    rows = -(-count // BLOCK)
    check(len(payload) == rows + codes_size, "wrong size")
    scales = numpy.frombuffer(payload, numpy.uint8, rows).astype(numpy.int64)
    check((scales <= 248).all(), "a scale above 248")
    return scales, numpy.frombuffer(payload, numpy.uint8, codes_size, rows)


def int8_encode(values):
    rows = blocks_of(values)
    largest = (bits_of(rows) & 0x7FFFFFFF).reshape(rows.shape).max(axis=1).astype(numpy.int64)
    exponent = largest >> 23
    fitting = exponent - 6 + ((largest & 0x7FFFFF) >= 0x7F0000)  # 127.5 would round to 128
    scales = numpy.where(largest <= 0x400000, 0, numpy.clip(fitting, 1, 248))
    up = numpy.ldexp(1.0, 127 - scales)[:, None]
    codes = numpy.clip(numpy.rint(rows.astype(numpy.float64) * up), -127, 127).astype(numpy.int8)
    codes[scales == 0] = 0
    codes = codes.reshape(-1)[:len(values)]
    payload = scales.astype(numpy.uint8).tobytes() + codes.tobytes()
    return payload, int8_values(scales, codes)


def int8_values(scales, codes):
    down = numpy.ldexp(1.0, scales - 127).astype(numpy.float32)[:, None]
    down[scales == 0] = 0
    rows = blocks_of(codes).astype(numpy.float32) * down
    return rows.reshape(-1)[:len(codes)] + numpy.float32(0)  # -0 becomes 0


def int8_decode(payload, count):
    scales, raw = split_scales(payload, count, count)
    codes = raw.view(numpy.int8)
    check((codes != -128).all(), "a code of -128")
    largest = numpy.abs(blocks_of(codes).astype(numpy.int64)).max(axis=1)
    least = numpy.select([scales == 0, scales == 1], [0, 1], 64)
    check(((largest >= least) & ((scales > 0) | (largest == 0))).all(), "a scale is too large")
    return int8_values(scales, codes)


def fp4_encode(values):
    rows = blocks_of(values)
    bits = bits_of(rows).reshape(rows.shape).astype(numpy.int64)
    size, negative = bits & 0x7FFFFFFF, bits >> 31
    nearest = size + 0x400000 >> 23  # exponent, 1.5 and more goes up
    largest = size.max(axis=1)
    top = numpy.minimum(largest + 0x400000 >> 23, 248 + 6)
    scales = numpy.where(largest < 0x400000, 0, numpy.maximum(top - 6, 1))
    column = scales[:, None]
    half = numpy.where(column > 1, column - 1 << 23, 0x400000)
    levels = numpy.minimum(numpy.maximum(nearest, column) - column + 1, 7)
    codes = numpy.where((column == 0) | (size < half), 0, levels | negative << 3)
    codes = codes.reshape(-1)[:len(values)]
    even = numpy.append(codes, 0) if len(codes) % 2 else codes
    packed = (even[0::2] | even[1::2] << 4).astype(numpy.uint8)
    payload = scales.astype(numpy.uint8).tobytes() + packed.tobytes()
    return payload, fp4_values(scales, codes)[:len(values)]


def fp4_values(scales, codes):
    codes = blocks_of(codes.astype(numpy.uint32))
    bits = (scales.astype(numpy.uint32)[:, None] + (codes & 7) - 1 << 23) | codes >> 3 << 31
    bits = numpy.where(codes & 7, bits, 0).astype(numpy.uint32)
    return bits.reshape(-1).view(numpy.float32)


def fp4_decode(payload, count):
    scales, packed = split_scales(payload, count, -(-count // 2))
    codes = numpy.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
    check(not codes[count:].any(), "the last half is not zero")
    codes = codes[:count]
    check((codes != 8).all(), "a negative zero")
    largest = blocks_of(codes & 7).max(axis=1)
    least = numpy.select([scales == 0, scales == 1], [0, 1], 7)
    check(((largest >= least) & ((scales > 0) | (largest == 0))).all(), "a scale is too large")
    return fp4_values(scales, codes)[:count]


# ---- topk2 ---------------------------------------------------------------------------------------

class BitWriter:
    def __init__(self):
        self.parts = []  # texts of 0 and 1 in the order of the stream

    def put(self, value, width):
        if width:
            self.parts.append(format(value, f"0{width}b")[::-1])

    def unary(self, zeroes):
        self.parts.append("0" * zeroes + "1")

    def rice(self, value, rice):
        self.unary(value >> rice)
        self.put(value & (1 << rice) - 1, rice)

    def bytes(self):
        bits = "".join(self.parts)
        size = -(-len(bits) // 8)
        return int(bits[::-1] or "0", 2).to_bytes(size, "little")


class BitReader:
    def __init__(self, raw):
        self.bits = format(int.from_bytes(raw, "little"), f"0{8 * len(raw)}b")[::-1] if raw else ""
        self.at = 0

    def get(self, width):
        self.at += width
        check(self.at <= len(self.bits), "truncated")
        return int(self.bits[self.at - width:self.at][::-1] or "0", 2)

    def unary(self, most):
        one = self.bits.find("1", self.at, self.at + most + 1)
        check(one >= 0, "truncated, or a number is too large")
        zeroes, self.at = one - self.at, one + 1
        return zeroes

    def rice(self, rice, most):
        return self.unary(most >> rice) << rice | self.get(rice)

    def at_end(self):
        rest = self.bits[self.at:]
        return len(rest) < 8 and "1" not in rest


def kept(size, keep):
    return -(-size * keep // CHUNK)


def rice_cost(gaps, rice):
    return len(gaps) * (1 + rice) + sum(gap >> rice for gap in gaps)


def best_form(gaps, most, keep, usual_rice):
    """(usual, Rice parameter) of a chunk: the usual form where it is no longer than the other."""
    costs = [rice_cost(gaps, rice) for rice in range(RICE_MAX + 1 if gaps else 1)]
    best = costs.index(min(costs))
    sent_bits = 7 if keep == 64 else 8
    if len(gaps) == most and rice_cost(gaps, usual_rice) <= 4 + sent_bits + costs[best]:
        return True, usual_rice
    return False, best


def runs_of(large):
    """Numbers of small elements before each large one, and after the last."""
    runs, run = [], 0
    for one in large:
        if one:
            runs.append(run)
        run = 0 if one else run + 1
    return runs + [run]


def runs_rice(runs):
    costs = [sum(1 + rice + (run >> rice) for run in runs) for rice in range(RUN_RICE_MAX + 1)]
    return costs.index(min(costs))


def gaps_of(indices):
    return [int(i) - int(last) - 1 for last, i in zip([-1, *indices[:-1]], indices)]


def select_largest(chunk, keep):
    sizes = (bits_of(chunk) & 0x7FFFFFFF).astype(numpy.int64)
    order = numpy.argsort(-sizes, kind="stable")[:kept(len(chunk), keep)]
    return numpy.sort(order[sizes[order] > 0])


def in_order(values):
    """A sum in double from left to right; Python's own sum() may compensate."""
    total = 0.0
    for value in values:
        total += value
    return total


def nearest_log2(value):
    fraction, exponent = math.frexp(value)
    return exponent - 1 + (2 * fraction >= math.sqrt(2))


def choose_shifts(chunks):
    """chunks: lists of the values sent, as float. The encoder's choice of scales."""
    sizes = [in_order(abs(v) for v in values) for values in chunks]
    entries = sum(len(values) for values in chunks)
    mean, first, shifts = in_order(sizes) / max(entries, 1), None, []
    for values, size in zip(chunks, sizes):
        shift = nearest_log2(size / len(values) / mean) if values else 0
        first = shift if first is None and values else first
        shifts.append(max(-SHIFT_MAX, min(SHIFT_MAX, shift - (first or 0))) if values else 0)
    return shifts


def topk2_encode(values, keep, usual_rice):
    indices, chunks = [], []
    for at in range(0, len(values), CHUNK):
        indices.append(select_largest(values[at:at + CHUNK], keep))
        chunks.append([float(v) for v in values[at:at + CHUNK][indices[-1]]])
    shifts = choose_shifts(chunks)
    scaled = [[v * 2.0 ** -shift for v in chunk] for chunk, shift in zip(chunks, shifts)]
    entries = sum(len(chunk) for chunk in scaled)
    squares = in_order(in_order(x * x for x in chunk) for chunk in scaled)
    codes = [[2 * (x < 0) + (x * x * entries >= LARGE_SQUARED * squares) for x in chunk]
             for chunk in scaled]
    table, most = [], FLT_MAX * 2.0 ** -max([0, *shifts])
    for code in range(4):
        members = [[abs(x) for x, c in zip(*pair) if c == code] for pair in zip(scaled, codes)]
        count = sum(len(part) for part in members)
        mean = in_order(in_order(part) for part in members) / max(count, 1)
        mean = min(max(mean, FLT_MIN), most) if count else 0.0
        table.append(numpy.float32(-mean if count and code >= 2 else mean))
    all_runs = [runs_of([c & 1 for c in chunk]) for chunk in codes if chunk]
    rice_of_runs = runs_rice([run for runs in all_runs for run in runs])

    bits, last_shift, sent = BitWriter(), None, numpy.zeros(len(values), numpy.float32)
    for number, (places, chunk, shift) in enumerate(zip(indices, codes, shifts)):
        gaps, first = gaps_of(places), number * CHUNK
        usual, rice = best_form(gaps, kept(min(CHUNK, len(values) - first), keep), keep,
                                usual_rice)
        bits.put(usual, 1)
        if not usual:
            bits.put(rice, 4)
            bits.put(len(chunk), 7 if keep == 64 else 8)
        if not chunk:
            continue
        if last_shift is not None:
            step = shift - last_shift
            value = 1 + (-2 * step - 1 if step < 0 else 2 * step)
            bits.unary(value.bit_length() - 1)
            bits.put(value & (1 << value.bit_length() - 1) - 1, value.bit_length() - 1)
        last_shift = shift
        for gap, code in zip(gaps, chunk):
            bits.rice(gap, rice)
            bits.put(code >> 1, 1)
        for run in runs_of([c & 1 for c in chunk]):
            bits.rice(run, rice_of_runs)
        scale = numpy.float32(2.0 ** shift)
        sent[first + places] = [table[code] * scale for code in chunk]
    payload = struct.pack("<4fB", *table, rice_of_runs) + bits.bytes()
    return payload, sent


def topk2_decode(payload, count, keep, usual_rice):
    out = numpy.zeros(count, numpy.float32)
    places, values = topk2_read(payload, count, keep, usual_rice)
    out[places] = values
    return out


def topk2_read(payload, count, keep, usual_rice):
    """Places and values of what was sent; a value may be so small that it is 0."""
    check(len(payload) >= 17, "truncated in its table")
    *table, rice_of_runs = struct.unpack_from("<4fB", payload)
    check(rice_of_runs <= RUN_RICE_MAX, "the runs' Rice parameter is out of range")
    bits, shift, largest, used, runs = BitReader(payload[17:]), None, 0, set(), []
    places, values = [], []
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        most = sent = kept(size, keep)
        usual, rice = bool(bits.get(1)), usual_rice
        if not usual:
            rice, sent = bits.get(4), bits.get(7 if keep == 64 else 8)
            check(rice <= RICE_MAX and sent <= most, "a chunk's head is out of range")
        gaps, negative, large = [], [], []
        if sent:
            if shift is None:
                shift = 0
            else:
                width = bits.unary(8)
                value = (1 << width | bits.get(width)) - 1
                shift += -(value + 1 >> 1) if value % 2 else value // 2
            check(abs(shift) <= SHIFT_MAX, "a shift is out of range")
            largest, place = max(largest, shift), 0
            for _ in range(sent):
                gaps.append(bits.rice(rice, size))
                place += gaps[-1] + 1
                check(place <= size, "an index is beyond its chunk")
                negative.append(bits.get(1))
            while len(large) <= sent:
                run = bits.rice(rice_of_runs, sent)
                check(run <= sent - len(large), "a run is too long")
                runs.append(run)
                large += [0] * run + [1]  # the last one stands for the end
            large.pop()
        check(best_form(gaps, most, keep, usual_rice) == (usual, rice),
              "a chunk is not in its shortest form")
        place = first - 1
        for gap, minus, big in zip(gaps, negative, large):
            place += gap + 1
            used.add(2 * minus + big)
            places.append(place)
            values.append(numpy.float32(table[2 * minus + big]) * numpy.float32(2.0 ** shift))
    check(bits.at_end(), "bytes after the last chunk")
    check(runs_rice(runs) == rice_of_runs, "the runs' Rice parameter is not the cheapest")
    for code, value in enumerate(table):
        check(math.isfinite(value * 2.0 ** largest) and abs(value) * 2.0 ** largest <= FLT_MAX,
              "a table entry is not finite")
        check((code in used) == (value != 0), "a table entry is zero but used, or not and unused")
        check(value == 0 and math.copysign(1, value) > 0 or (value < 0) == (code >= 2),
              "a table entry has the wrong sign")
    for small, big in (table[:2], table[2:]):
        check(not small or not big or abs(small) <= abs(big), "small is larger than large")
    return numpy.array(places, numpy.int64), numpy.array(values, numpy.float32)


CODECS = {"fp32": (fp32_encode, fp32_decode, {}), "bf16": (bf16_encode, bf16_decode, {}),
          "int8": (int8_encode, int8_decode, {}), "fp4": (fp4_encode, fp4_decode, {}),
          "topk2-64": (topk2_encode, topk2_decode, {"keep": 64, "usual_rice": 5}),
          "topk2-128": (topk2_encode, topk2_decode, {"keep": 128, "usual_rice": 4})}
