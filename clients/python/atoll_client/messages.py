"""The protobuf headers of proto/atoll.proto, encoded and decoded by hand, and the frame of them.

Only what the protocol uses is here: numbers, texts, bytes, messages within messages, repeated
fields. Messages are plain objects: `HEARTBEAT_REQUEST.encode(epoch=1)` gives bytes, and what
`decode` returns has every field, those that did not come as 0, "" or [].
"""
import struct
from types import SimpleNamespace

VARINT, FIXED64, SIZED, FIXED32 = 0, 1, 2, 5
WIRE = {"uint": VARINT, "bool": VARINT, "sint": VARINT, "fixed64": FIXED64, "double": FIXED64,
        "fixed32": FIXED32, "float": FIXED32}
PACKING = {"fixed64": "<Q", "double": "<d", "fixed32": "<I", "float": "<f"}
EMPTY = {"text": "", "bytes": b"", "bool": False, "double": 0.0, "float": 0.0}


class Malformed(ValueError):
    """Bytes of the peer that cannot be right."""


def put_varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def get_varint(raw, at):
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise Malformed("a number is cut off")
        value |= (raw[at] & 0x7F) << shift
        at += 1
        if raw[at - 1] < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise Malformed("a number has more than ten bytes")


class Message:
    """A type: lines of `number kind name`, where `kind*` is repeated."""

    def __init__(self, name, fields, **inner):
        self.name, self.by_number, self.by_name = name, {}, {}
        for line in fields.strip().splitlines():
            number, kind, field = line.split()
            repeated = kind.endswith("*")
            kind = kind.rstrip("*")
            entry = (int(number), inner.get(kind, kind), field, repeated)
            self.by_number[int(number)] = self.by_name[field] = entry

    # ---- writing ----
    @staticmethod
    def _value(kind, value):
        if isinstance(kind, Message):
            raw = value if isinstance(value, bytes) else kind.encode(**value)
            return put_varint(len(raw)) + raw
        if kind in ("text", "bytes"):
            raw = value.encode() if isinstance(value, str) else bytes(value)
            return put_varint(len(raw)) + raw
        if kind in PACKING:
            return struct.pack(PACKING[kind], value)
        if kind == "sint":
            value = value << 1 ^ value >> 63
        return put_varint(int(value))

    def encode(self, **values):
        """Fields that are zero or empty are left out, as proto3 does; a message within, even an
        empty one, is there where it is given."""
        out = b""
        for field, value in values.items():
            number, kind, _, repeated = self.by_name[field]
            wire = SIZED if isinstance(kind, Message) else WIRE.get(kind, SIZED)
            key = put_varint(number << 3 | wire)
            if repeated and wire != SIZED and value:  # packed
                raw = b"".join(self._value(kind, one) for one in value)
                out += put_varint(number << 3 | SIZED) + put_varint(len(raw)) + raw
            elif repeated:
                out += b"".join(key + self._value(kind, one) for one in value)
            elif value is not None and (value or isinstance(kind, Message)):
                out += key + self._value(kind, value)
        return out

    # ---- reading ----
    def decode(self, raw):
        out = SimpleNamespace()
        for _, kind, field, repeated in self.by_number.values():
            empty = None if isinstance(kind, Message) else EMPTY.get(kind, 0)
            setattr(out, field, [] if repeated else empty)
        at = 0
        while at < len(raw):
            key, at = get_varint(raw, at)
            number, wire = key >> 3, key & 7
            if key >> 32 or number == 0:
                raise Malformed(f"{self.name}: a field has an impossible number")
            at = self._field(out, number, wire, raw, at)
        return out

    def _field(self, out, number, wire, raw, at):
        if wire == SIZED:
            size, at = get_varint(raw, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        elif wire == VARINT:
            size = get_varint(raw, at)[1] - at
        else:
            raise Malformed(f"{self.name}: a field has wire type {wire}")
        if size > len(raw) - at:
            raise Malformed(f"{self.name}: field {number} is cut off")
        if number in self.by_number:
            _, kind, field, repeated = self.by_number[number]
            for value in self._values(kind, wire, raw[at:at + size], repeated):
                if repeated:
                    getattr(out, field).append(value)
                else:
                    setattr(out, field, value)
        return at + size

    def _values(self, kind, wire, raw, repeated):
        wanted = SIZED if isinstance(kind, Message) else WIRE.get(kind, SIZED)
        if repeated and wire == SIZED and wanted == VARINT:  # packed
            values, at = [], 0
            while at < len(raw):
                value, at = get_varint(raw, at)
                values.append(value)
            return values
        if wire != wanted:
            raise Malformed(f"{self.name}: wire type {wire} where {wanted} is right")
        if isinstance(kind, Message):
            return [kind.decode(raw)]
        if kind in PACKING:
            return [struct.unpack(PACKING[kind], raw)[0]]
        if kind == "text":
            try:
                return [raw.decode()]
            except UnicodeDecodeError:
                raise Malformed(f"{self.name}: a text is not UTF-8") from None
        if kind == "bytes":
            return [raw]
        value = get_varint(raw, 0)[0]
        return [bool(value) if kind == "bool" else
                (value >> 1 ^ -(value & 1)) if kind == "sint" else value]


# ---- the frame: u32 size of the header, header, payload ------------------------------------------

def frame(header, payload=b""):
    return struct.pack("<I", len(header)) + header + payload


def unframe(raw):
    if len(raw) < 4:
        raise Malformed("a frame of less than four bytes")
    (size,) = struct.unpack_from("<I", raw)
    if size > len(raw) - 4:
        raise Malformed("a frame's header is cut off")
    return raw[4:4 + size], raw[4 + size:]


# ---- the types -----------------------------------------------------------------------------------

JOIN_REQUEST = Message("JoinRequest", """
    1 uint protocol_min
    2 uint protocol_max
    3 text site_name
    4 bytes invitation_secret
    5 bytes csr_der
    6 text software
    7 bool look""")
JOIN_REPLY = Message("JoinReply", """
    1 uint code
    2 text message
    3 uint protocol
    4 bytes run_id
    5 uint site
    6 bytes certificate_pem
    7 bytes ca_pem
    8 bytes coordinator_key
    9 bytes manifest
    10 uint server_time_ms
    11 uint role""")

SUBMIT_OPEN = Message("SubmitOpen", """
    1 uint protocol
    2 bytes header
    3 bytes signature
    4 bool waits
    5 fixed64 instance
    6 bool supply""")
SUBMIT_CHUNK = Message("SubmitChunk", "1 uint offset")
SUBMIT_FRAME = Message("SubmitFrame", """
    1 OPEN open
    2 CHUNK chunk""", OPEN=SUBMIT_OPEN, CHUNK=SUBMIT_CHUNK)
SUBMIT_REPLY = Message("SubmitReply", """
    1 CREDIT credit
    2 RECEIPT receipt
    3 REFUSAL refusal""", CREDIT=Message("SubmitCredit", """
    1 uint resume_offset
    2 uint chunk_limit"""), RECEIPT=Message("SubmitReceipt", "1 bytes receipt"),
    REFUSAL=Message("SubmitRefusal", """
    1 uint code
    2 text message
    3 uint retry_after_ms
    4 uint current_version
    5 bytes receipt"""))

FOLLOW_REQUEST = Message("FollowRequest", """
    1 uint protocol
    2 uint from_index
    3 uint payloads_from_index
    4 bool omit_own
    5 uint chunk_limit
    6 fixed64 instance
    7 uint made_plus_1
    8 bool restored""")
FOLLOW_FRAME = Message("FollowFrame", """
    1 bytes* entries
    2 uint first_index_plus_1
    3 OWN* own
    4 bytes head
    5 uint payload_index
    6 uint payload_offset
    7 uint payload_total
    8 uint* dropped""", OWN=Message("FollowOwn", """
    1 uint place
    2 uint sequence
    3 uint time_ms
    4 uint epoch
    5 fixed32 header"""))

SNAPSHOT_REQUEST = Message("SnapshotRequest", """
    1 uint protocol
    2 uint version
    3 uint offset""")
SNAPSHOT_FRAME = Message("SnapshotFrame", """
    1 uint offset
    2 uint total
    3 bytes descriptor""")

LOST_TIME = Message("LostTime", """
    1 uint cause
    2 uint ms""")
HEARTBEAT_REQUEST = Message("HeartbeatRequest", """
    1 uint protocol
    2 uint epoch
    3 uint version
    4 uint ledger_size
    5 uint phase
    6 uint inner_steps_done
    7 uint tokens
    8 double tokens_per_second
    9 double steps_per_second
    10 float loss
    11 uint staleness
    12 uint bytes_up
    13 uint bytes_down
    14 uint compute_ms
    15 LOST* lost
    16 uint rounds
    17 uint refused
    18 text device
    19 text software
    20 bytes last_root
    21 fixed64 instance
    22 uint turn
    23 uint time_ms
    24 bool leaving
    25 bool has_heldout
    26 uint heldout_version
    27 double heldout
    28 uint best_version
    29 double best_heldout""", LOST=LOST_TIME)
HEARTBEAT_REPLY = Message("HeartbeatReply", """
    1 uint code
    2 text message
    3 uint inner_steps
    4 uint epoch
    5 uint version
    6 uint phase
    7 uint server_time_ms
    8 uint sites_present
    9 uint turn
    10 uint copies
    11 uint* wanted
    12 bool has_left""")

ADMIN_REQUEST = Message("AdminRequest", """
    1 uint protocol
    2 uint verb
    3 text site_name
    4 text reason
    5 uint value
    6 uint expires_ms
    7 uint first_site
    8 text key
    9 text rule_value
    10 uint role""")
RUN_STATUS = Message("RunStatus", """
    1 bytes run_id
    2 text name
    3 uint phase
    4 uint version
    5 uint ledger_size
    6 uint tokens
    7 uint epoch
    8 uint parameters
    9 bytes root
    10 uint root_version
    11 uint accepted
    12 COUNT* refused
    13 uint pending
    14 uint uptime_ms
    15 uint bytes_in
    16 uint bytes_out
    17 uint inner_steps
    18 uint sites_active
    19 text reason
    20 uint token_budget
    21 uint sites_connected
    22 text waits
    23 uint sites_twice
    24 sint clock_ahead_ms
    25 uint weights
    26 uint sites_present
    27 bool has_heldout
    28 uint heldout_version
    29 double heldout
    30 uint best_version
    31 double best_heldout
    32 bool heldout_rises""", COUNT=Message("CodeCount", """
    1 uint code
    2 uint count"""))
SITE_STATUS = Message("SiteStatus", """
    1 uint site
    2 text name
    3 bool revoked
    4 bool connected
    5 uint version
    6 uint staleness
    7 float loss
    8 uint tokens
    9 double tokens_per_second
    10 uint contributions
    11 uint refused
    12 uint bytes_up
    13 uint bytes_down
    14 uint compute_ms
    15 LOST* lost
    16 uint last_seen_ms_ago
    17 text device
    18 text software
    19 uint inner_steps
    20 uint copies
    21 uint copy_ms_ago
    22 double norm
    23 double clip
    24 float scale
    25 uint tokens_uncounted
    26 double weight
    27 uint presence
    28 uint age
    29 uint role
    30 bool has_heldout
    31 uint heldout_version
    32 double heldout
    33 uint best_version
    34 double best_heldout""", LOST=LOST_TIME)
INVITATION_STATUS = Message("InvitationStatus", """
    1 text name
    2 uint made_ms
    3 uint expires_ms
    4 uint end
    5 uint role""")
ADMIN_REPLY = Message("AdminReply", """
    1 uint code
    2 text message
    3 RUN run
    4 SITE* sites
    5 uint next_site
    6 bytes invitation_secret
    7 bytes head
    8 uint value
    9 text address
    10 INVITATION* invitations
    11 bytes rules""", INVITATION=INVITATION_STATUS, RUN=RUN_STATUS, SITE=SITE_STATUS)
