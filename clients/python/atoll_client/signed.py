"""What is signed or hashed: contribution headers, receipts, ledger heads and entries, snapshots.

Byte layouts as docs/protocol.md has them, little-endian. A signature is Ed25519 over a tag, a zero
byte and the object's bytes. Everything that comes from outside is checked before it is believed;
`Untrue` says what does not hold.
"""
import dataclasses
import hashlib
import math
import struct
from dataclasses import dataclass
from types import SimpleNamespace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HEADER_SIZE, SIGNATURE_SIZE = 272, 64
CONTRIBUTION_TAG, RECEIPT_TAG = b"atoll contribution 1", b"atoll receipt 1"
HEAD_TAG, SNAPSHOT_TAG = b"atoll ledger head 1", b"atoll snapshot 1"
ZERO = bytes(32)
CODEC_CODES = {"fp32": 1, "bf16": 2, "int8": 3, "fp4": 4, "topk2-64": 5, "topk2-128": 6}


class Untrue(Exception):
    """A signature, a hash or a rule of the ledger does not hold. Stop, keep what there is, tell a
    person."""


def sha256(data):
    return hashlib.sha256(data).digest()


def sign(key, tag, message):
    return key.sign(tag + b"\0" + message)


def verify(public_key, tag, message, signature, what):
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, tag + b"\0" + message)
    except (InvalidSignature, ValueError):
        raise Untrue(f"{what}: the signature is not good") from None


class Reader:
    def __init__(self, raw, what):
        self.raw, self.what, self.at = raw, what, 0

    def take(self, size):
        if size > len(self.raw) - self.at:
            raise Untrue(f"{self.what}: cut off")
        self.at += size
        return self.raw[self.at - size:self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self, size):
        text, zero, rest = self.take(size).partition(b"\0")
        if not zero or rest.strip(b"\0"):
            raise Untrue(f"{self.what}: a text is not filled up with zeroes")
        return text.decode(errors="replace")

    def finish(self):
        if self.at != len(self.raw):
            raise Untrue(f"{self.what}: {len(self.raw) - self.at} bytes too many")


# ---- the contribution's header -------------------------------------------------------------------

HEADER = struct.Struct("<HHI16sII8sQQ32sIIQffd32sQ32s32sQ32sQ")
assert HEADER.size == HEADER_SIZE


@dataclass
class Contribution:
    protocol: int = 1
    codec: int = 0
    epoch: int = 1
    run_id: bytes = bytes(16)
    site: int = 0
    fragment: int = 0
    key_id: bytes = bytes(8)
    sequence: int = 1
    base_version: int = 0
    base_root: bytes = ZERO
    inner_steps: int = 1
    reserved: int = 0
    tokens: int = 0
    loss: float = 0.0
    compute_share: float = 0.0
    norm: float = 0.0
    layout_digest: bytes = ZERO
    payload_size: int = 0
    payload_digest: bytes = ZERO
    previous: bytes = ZERO
    signed_at_ms: int = 0
    manifest_digest: bytes = ZERO
    began_version: int = 0

    def pack(self):
        return HEADER.pack(*dataclasses.astuple(self))

    @classmethod
    def unpack(cls, raw):
        if len(raw) != HEADER_SIZE:
            raise Untrue(f"a contribution's header of {len(raw)} bytes")
        self = cls(*HEADER.unpack(raw))
        for value in (self.loss, self.compute_share, self.norm):
            if not math.isfinite(value) or math.copysign(1, value) < 0:
                raise Untrue("a contribution's header: a number is not finite, or below 0")
        if self.reserved:
            raise Untrue("a contribution's header: a reserved field is not zero")
        return self


def key_id(public_key):
    return sha256(public_key)[:8]


# ---- the hash tree of RFC 6962 -------------------------------------------------------------------

def leaf_hash(entry):
    return sha256(b"\0" + entry)


def node_hash(left, right):
    return sha256(b"\1" + left + right)


class Tree:
    """Keeps every complete subtree's hash, so the root of any prefix is a few lookups."""

    def __init__(self):
        self.levels = [[]]

    def __len__(self):
        return len(self.levels[0])

    def append(self, entry):
        digest, level = leaf_hash(entry), 0
        while True:
            if level == len(self.levels):
                self.levels.append([])
            self.levels[level].append(digest)
            if len(self.levels[level]) % 2:
                return
            digest = node_hash(*self.levels[level][-2:])
            level += 1

    def root(self, size=None):
        size = len(self) if size is None else size
        return self._range(0, size) if size else sha256(b"")

    def _range(self, start, size):
        if size & size - 1 == 0:
            level = size.bit_length() - 1
            return self.levels[level][start >> level]
        split = 1 << (size - 1).bit_length() - 1
        return node_hash(self._range(start, split), self._range(start + split, size - split))


def proof_root(leaf, index, size, hashes):
    """The root to which an inclusion proof leads (RFC 9162, 2.1.3.2); None where it is not one."""
    if index >= size:
        return None
    at, last, digest = index, size - 1, leaf
    for other in hashes:
        if last == 0:
            return None
        if at & 1 or at == last:
            digest = node_hash(other, digest)
            while at & 1 == 0 and at:
                at, last = at >> 1, last >> 1
        else:
            digest = node_hash(digest, other)
        at, last = at >> 1, last >> 1
    return digest if last == 0 else None


def state_root(values):
    """Of parameters as little-endian fp32: the same tree over pieces of 1 MiB."""
    tree = Tree()
    for at in range(0, len(values), 1 << 20):
        tree.append(values[at:at + (1 << 20)])
    return tree.root()


# ---- ledger entries ------------------------------------------------------------------------------

GENESIS, INVITED, ADDED, REVOKED, CONTRIBUTION, STEP = 1, 2, 3, 4, 5, 6
PAUSED, RESUMED, STOPPED, EPOCH, RULE, DROPPED, UNINVITED = 7, 8, 9, 10, 11, 12, 13
AWAY, BACK, LEFT = 14, 15, 16
NAME_SIZE, REASON_SIZE = 33, 128


def contribution_entry(epoch, time_ms, header, signature):
    return struct.pack("<BIQ", CONTRIBUTION, epoch, time_ms) + header + signature


def decode_entry(raw):
    read = Reader(raw, "a ledger entry")
    e = SimpleNamespace(kind=read.number("B"), epoch=read.number("I"), time_ms=read.number("Q"))
    if e.kind == GENESIS:
        e.run_id, e.coordinator_key = read.take(16), read.take(32)
        e.layout_digest, e.parameters = read.take(32), read.number("Q")
        e.initial_root = read.take(32)
        e.manifest = read.take(read.number("I"))
    elif e.kind == INVITED:
        e.name, e.secret_digest = read.text(NAME_SIZE), read.take(32)
        e.expires_ms, e.role = read.number("Q"), read.number("B")
        if e.role > 1:
            raise Untrue(f"there is no role {e.role}")
    elif e.kind == ADDED:
        e.site, e.name = read.number("I"), read.text(NAME_SIZE)
        e.public_key, e.secret_digest = read.take(32), read.take(32)
    elif e.kind == REVOKED:
        e.site, e.reason = read.number("I"), read.text(REASON_SIZE)
    elif e.kind == CONTRIBUTION:
        e.header, e.signature = read.take(HEADER_SIZE), read.take(SIGNATURE_SIZE)
    elif e.kind == STEP:
        e.fragment, e.version = read.number("I"), read.number("Q")
        e.root = read.take(32) if read.number("?") else None
        e.rate, e.period = read.number("f"), read.number("I")
        e.parts = [(read.number("Q"), read.number("f")) for _ in range(read.number("H"))]
    elif e.kind in (PAUSED, RESUMED, STOPPED):
        e.reason = read.text(REASON_SIZE)
        e.token_budget = read.number("Q") if e.kind == RESUMED else 0
    elif e.kind == DROPPED:
        e.dropped_index, e.reason = read.number("Q"), read.text(REASON_SIZE)
    elif e.kind == UNINVITED:
        e.name = read.text(NAME_SIZE)
    elif e.kind == RULE:
        e.key, e.value, e.reason = read.text(48), read.text(80), read.text(REASON_SIZE)
    elif e.kind in (AWAY, BACK, LEFT):
        e.site = read.number("I")
    elif e.kind != EPOCH:
        raise Untrue(f"a ledger entry of kind {e.kind}: update this client")
    read.finish()
    return e


# ---- heads, receipts, snapshots ------------------------------------------------------------------

def signed_part(raw, public_key, tag, what):
    """All but the signature at the end, which must be good."""
    if len(raw) <= SIGNATURE_SIZE:
        raise Untrue(f"{what}: {len(raw)} bytes")
    message, signature = raw[:-SIGNATURE_SIZE], raw[-SIGNATURE_SIZE:]
    verify(public_key, tag, message, signature, what)
    return Reader(message, what)


def read_head(raw, coordinator_key):
    read = signed_part(raw, coordinator_key, HEAD_TAG, "a ledger head")
    head = SimpleNamespace(run_id=read.take(16), epoch=read.number("I"), size=read.number("Q"),
                           root=read.take(32))
    read.finish()
    return head


def read_receipt(raw, coordinator_key, header, signature):
    """Proof that the contribution of this header and signature is entry `index` of the ledger."""
    read = signed_part(raw, coordinator_key, RECEIPT_TAG, "a receipt")
    r = SimpleNamespace(run_id=read.take(16), epoch=read.number("I"), site=read.number("I"),
                        sequence=read.number("Q"), header_digest=read.take(32),
                        index=read.number("Q"), entry_time_ms=read.number("Q"),
                        entry_epoch=read.number("I"), size=read.number("Q"), root=read.take(32))
    hashes = [read.take(32) for _ in range(read.number("I"))]
    read.finish()
    ours = Contribution.unpack(header)
    if (r.run_id, r.site, r.sequence, r.header_digest) != (ours.run_id, ours.site, ours.sequence,
                                                          sha256(header)):
        raise Untrue("a receipt: it is for another contribution")
    leaf = leaf_hash(contribution_entry(r.entry_epoch, r.entry_time_ms, header, signature))
    if proof_root(leaf, r.index, r.size, hashes) != r.root:
        raise Untrue("a receipt: its proof does not show the contribution in the ledger")
    return r


def read_snapshot(raw, coordinator_key):
    read = signed_part(raw, coordinator_key, SNAPSHOT_TAG, "a snapshot's descriptor")
    s = SimpleNamespace(run_id=read.take(16), epoch=read.number("I"), version=read.number("Q"),
                        ledger_size=read.number("Q"), payloads_from=read.number("Q"),
                        root=read.take(32), content_size=read.number("Q"),
                        content_digest=read.take(32))
    read.finish()
    return s
