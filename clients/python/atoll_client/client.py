"""The calls: join, follow, submit, snapshot, heartbeat, admin.

A `Connection` is one TLS connection with one identity; the functions take one and do a whole
exchange. Each has a part that only sends what it is given, so a test can send anything.
"""
import os
import queue
import random
import secrets
import threading
import time
from types import SimpleNamespace

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from . import identity, messages as m, signed
from .ledger import Ledger, check_payload
from .signed import Contribution, Untrue, sha256

PROTOCOL, SOFTWARE = 1, "atoll-client-python 1"
MESSAGE_LIMIT = 4 + 131072 + 1048576
NO_PAYLOADS = 1 << 62  # an index that no contribution reaches
METHODS = {  # name: request, reply, shape
    "Join": (m.JOIN_REQUEST, m.JOIN_REPLY, "unary_unary"),
    "Submit": (m.SUBMIT_FRAME, m.SUBMIT_REPLY, "stream_stream"),
    "Follow": (m.FOLLOW_REQUEST, m.FOLLOW_FRAME, "unary_stream"),
    "Snapshot": (m.SNAPSHOT_REQUEST, m.SNAPSHOT_FRAME, "unary_stream"),
    "Heartbeat": (m.HEARTBEAT_REQUEST, m.HEARTBEAT_REPLY, "unary_unary"),
    "Admin": (m.ADMIN_REQUEST, m.ADMIN_REPLY, "unary_unary"),
}
JOIN_CODES = ["ok", "secret", "expired", "used", "name", "csr", "protocol", "stopped", "busy",
              "void"]
REFUSALS = ["accepted", "rebase", "revoked", "malformed", "nonfinite", "duplicate", "paused",
            "busy", "signature", "sequence", "run", "layout", "base", "expired", "stopped", "size",
            "digest", "norm", "epoch", "unknown_site", "held", "copy", "observer"]
TEMPORARY = ("paused", "busy", "held")  # the same bytes may be taken later
ADMIN_CODES = ["ok", "denied", "not_found", "invalid", "conflict", "busy", "failed"]
VERBS = {"status": 1, "pause": 2, "resume": 3, "stop": 4, "invite": 5, "revoke": 6, "sites": 7,
         "set_rule": 8, "snapshot": 9, "invitations": 10, "uninvite": 11,
         "rules": 12}


def name_of(names, code):
    return names[code] if code < len(names) else f"code {code}"


class Refused(Exception):
    """The coordinator's answer in the protocol's own codes; `code` is its name."""

    def __init__(self, code, message, answer=None):
        super().__init__(f"{code}: {message}")
        self.code, self.answer = code, answer


def patiently(call, seconds=60):
    """What `call` returns; refused for now, it is tried again, ever more slowly, by chance."""
    limit, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            return call()
        except Refused as refused:
            left = limit - time.monotonic()
            if refused.code not in TEMPORARY or left <= 0:
                raise
            asked = getattr(refused.answer, "retry_after_ms", 0) / 1000
        time.sleep(min(left, max(asked, random.uniform(0, pause))))
        pause = min(2 * pause, 60)


class Connection:
    def __init__(self, address, ca_pem, key_pem=None, certificate_pem=None, options=()):
        """Connects when first used. Connections with equal options do not share a socket."""
        credentials = grpc.ssl_channel_credentials(ca_pem, key_pem, certificate_pem)
        self.channel = grpc.secure_channel(address, credentials, options=[
            ("grpc.ssl_target_name_override", "atoll-coordinator"),
            ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            ("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0), ("grpc.keepalive_time_ms", 60000),
            ("grpc.keepalive_permit_without_calls", 1), ("grpc.enable_http_proxy", 0), *options])

    @classmethod
    def of(cls, address, site, **options):
        return cls(address, site.ca_pem, site.key_pem, site.certificate_pem, **options)

    @classmethod
    def of_admin(cls, address, keys, **options):
        """keys: a directory with ca.pem, admin.key, admin.pem (RUN/keys)."""
        def read(name):
            with open(os.path.join(keys, name), "rb") as file:
                return file.read()
        return cls(address, read("ca.pem"), read("admin.key"), read("admin.pem"), **options)

    def call(self, method, request, timeout=30):
        """Frames as bytes, in and out: one for a unary request, else an iterator."""
        shape = METHODS[method][2]
        start = getattr(self.channel, shape)("/atoll.v1.Atoll/" + method)
        return start(request, timeout=timeout)

    def ask(self, method, timeout=30, payload=b"", **fields):
        """A unary call; returns the reply's header, decoded."""
        request, reply, _ = METHODS[method]
        raw = self.call(method, m.frame(request.encode(**fields), payload), timeout)
        return reply.decode(m.unframe(raw)[0])

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- join ----------------------------------------------------------------------------------------

def join(address, token, key=None, look=False, software=SOFTWARE, timeout=30):
    """A Site; with `look` the reply alone, and the invitation stays as it is. Asking again with the
    same token and key is safe and gives the certificate again."""
    invitation, key = identity.read_token(token), key or identity.new_key()
    with Connection(address, invitation.ca_pem) as connection:
        reply = connection.ask(
            "Join", timeout, protocol_min=PROTOCOL, protocol_max=PROTOCOL,
            site_name=invitation.name, invitation_secret=invitation.secret,
            csr_der=identity.request_der(key), software=software, look=look)
    if reply.code:
        raise Refused(name_of(JOIN_CODES, reply.code), reply.message, reply)
    if look:
        return reply
    if reply.ca_pem.split() != invitation.ca_pem.split():
        raise Untrue("the reply names another CA than the token")
    certificate = x509.load_pem_x509_certificate(reply.certificate_pem)
    if certificate.public_key().public_bytes(*identity.RAW) != identity.public_bytes(key):
        raise Untrue("the certificate that came is for another key")
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(reply.ca_pem))
    return identity.Site(reply.site, invitation.name, reply.run_id, reply.coordinator_key, key,
                         reply.certificate_pem, reply.ca_pem, reply.manifest)


# ---- follow --------------------------------------------------------------------------------------

class Follower:
    """One process of a site that follows the ledger, and checks all of it.

        for entries in Follower(address, site).frames(): ...   in the foreground, without end

        follower = Follower(address, site)
        follower.catch_up()                                    in a thread, from here on
        follower.wait(lambda ledger: ledger.version > 7)

    `ledger` is what was verified, `payloads` the payloads that no step has merged yet (with
    keep_payloads all of them). What cannot be right raises Untrue, in the thread's case from the
    next `wait`. After a stream that broke, the same again goes on where it was."""

    def __init__(self, address, site, keep_payloads=False, instance=None, options=()):
        self.site, self.instance = site, instance or secrets.randbits(63) + 1
        self.connection = Connection.of(address, site, options=options)
        self.ledger = Ledger(site.run_id, site.coordinator_key)
        self.payloads, self.parts, self.keep_payloads = {}, {}, keep_payloads
        self.verified_size, self.stream = 0, None  # size of the largest head that was right
        self.thread, self.fault, self.last_frame = None, None, 0.0
        self.changed = threading.Condition(threading.RLock())

    def close(self):
        self.stop()
        self.connection.close()

    # ---- the stream ----
    def _open(self, payloads, restored, timeout):
        own = self.ledger.sites.get(self.site.number)
        made = (own.last_sequence + 1) if own else 0
        wanted = min(self.missing(), default=len(self.ledger))
        self.parts.clear()  # pieces start again
        request = m.FOLLOW_REQUEST.encode(
            protocol=PROTOCOL, from_index=len(self.ledger), instance=self.instance,
            payloads_from_index=wanted if payloads else NO_PAYLOADS,
            made_plus_1=made, restored=restored)
        self.stream = self.connection.call("Follow", m.frame(request), timeout)
        return self.stream

    def frames(self, payloads=True, restored=False, timeout=None):
        """Each frame's entries, after they were taken in, until `stop`."""
        self.stopping = False
        try:
            for raw in self._open(payloads, restored, timeout):
                yield self.take(raw)
        except grpc.RpcError:
            if not self.stopping:
                raise

    def stop(self):
        self.stopping = True
        if self.stream:
            self.stream.cancel()
        if self.thread:
            self.thread.join()
            self.thread = None

    # ---- in a thread ----
    def start(self, **how):
        def run():
            try:
                for _ in self.frames(**how):
                    pass
                assert self.stopping, "the coordinator ended the stream"
            except Exception as fault:  # told by the next wait
                with self.changed:
                    self.fault = fault
                    self.changed.notify_all()
        self.fault, self.last_frame = None, time.monotonic()
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def wait(self, until, seconds=30):
        """Until `until(ledger)` holds. TimeoutError after so many seconds without that."""
        limit = time.monotonic() + seconds
        with self.changed:
            while not until(self.ledger):
                if self.fault:
                    raise self.fault
                if time.monotonic() > limit:
                    raise TimeoutError(f"not within {seconds} s, at entry {len(self.ledger)}")
                self.changed.wait(0.05)
        return self.ledger

    def catch_up(self, quiet=0.3, seconds=30, payloads=True):
        """Until what there is has come: the version that a heartbeat tells, our own entry, and all
        payloads that are needed by then. A ledger that does not grow is waited for a little longer,
        for its entries after that version. (Heads come only every so many entries.)"""
        if not self.thread:
            self.start(payloads=payloads)
        newest = self.connection.ask("Heartbeat", seconds, protocol=PROTOCOL,
                                     instance=self.instance).version
        self.wait(lambda ledger: ledger.version >= newest and self.site.number in ledger.sites,
                  seconds)
        size, since = len(self.ledger), time.monotonic()

        def complete(ledger):
            now, lacks = time.monotonic(), payloads and any(i < size for i in self.missing())
            rests = now - max(since, self.last_frame) > quiet or now - since > 3 * quiet
            return rests and not lacks
        return self.wait(complete, seconds)

    def missing(self):
        """Contributions that wait for a step and whose payload has not come."""
        return [i for i in self.ledger.waiting if i not in self.payloads]

    # ---- what comes ----
    def take(self, raw):
        with self.changed:
            self.last_frame = time.monotonic()
            self.changed.notify_all()
            return self._take(raw)

    def _take(self, raw):
        header, payload = m.unframe(raw)
        f = m.FOLLOW_FRAME.decode(header)
        places = len(f.entries) + len(f.own)
        if places and f.first_index_plus_1 and f.first_index_plus_1 - 1 != len(self.ledger):
            raise Untrue(f"entry {f.first_index_plus_1 - 1} came, {len(self.ledger)} was next")
        if f.own:
            raise Untrue("a stub came for an entry of ours, which was not asked for")
        taken = [self.ledger.append(entry) for entry in f.entries]
        for entry in taken:
            if entry.kind == signed.STEP and not self.keep_payloads:
                for index, _ in entry.parts:
                    self.payloads.pop(index, None)
        if f.head:
            self.verified_size = max(self.verified_size, self.ledger.check_head(f.head).size)
        if f.payload_total:
            self._piece(f, payload)
        elif payload:
            raise Untrue("a payload without its place")
        return taken

    def _piece(self, f, piece):
        index = f.payload_index
        entry = self.ledger.entries[index] if index < len(self.ledger) else None
        if not entry or entry.kind != signed.CONTRIBUTION:
            raise Untrue(f"a payload of entry {index}, which is not a contribution")
        so_far = self.parts.setdefault(index, bytearray())
        if f.payload_offset != len(so_far) or f.payload_offset + len(piece) > f.payload_total:
            raise Untrue(f"the payload of entry {index} came out of order")
        so_far += piece
        if len(so_far) == f.payload_total:
            check_payload(entry.contribution, bytes(so_far))
            del self.parts[index]
            if self.keep_payloads or index in self.ledger.waiting:
                self.payloads[index] = bytes(so_far)


# ---- submit --------------------------------------------------------------------------------------

def contribution(site, ledger, payload, norm, /, fragment=0, codec=None, **fields):
    """The header of the site's next contribution; `fields` replace what would be in it."""
    from .codec import CODES  # numpy is needed from here on only
    own = ledger.sites[site.number]
    made = dict(
        codec=CODES[codec or ledger.codec_of(ledger.version)], epoch=ledger.epoch,
        run_id=site.run_id, site=site.number, fragment=fragment,
        key_id=signed.key_id(site.public_key), sequence=own.last_sequence + 1,
        base_version=ledger.version, inner_steps=ledger.inner_steps, tokens=1, norm=norm,
        layout_digest=ledger.genesis.layout_digest, payload_size=len(payload),
        payload_digest=sha256(payload), previous=own.last_digest,
        signed_at_ms=time.time_ns() // 1000000, manifest_digest=ledger.manifest_digest)
    return Contribution(**{**made, **fields})


def send(connection, header, signature, payload, instance=0, supply=False, timeout=60):
    """One Submit stream with exactly these bytes. Returns the receipt's bytes; Refused with the
    coordinator's code otherwise (`answer.receipt` is the old one of a duplicate)."""
    frames = queue.SimpleQueue()  # what is to be sent; None ends it

    def put(payload=b"", **fields):
        frames.put(m.frame(m.SUBMIT_FRAME.encode(**fields), payload))
    put(open=dict(protocol=PROTOCOL, header=header, signature=signature, instance=instance,
                  supply=supply))
    stream = connection.call("Submit", iter(frames.get, None), timeout)
    try:
        for raw in stream:
            reply = m.SUBMIT_REPLY.decode(m.unframe(raw)[0])
            if reply.refusal:
                raise Refused(name_of(REFUSALS, reply.refusal.code), reply.refusal.message,
                              reply.refusal)
            if reply.receipt:
                return reply.receipt.receipt
            at, limit = reply.credit.resume_offset, reply.credit.chunk_limit
            for offset in range(at, len(payload), limit):
                put(payload[offset:offset + limit], chunk=dict(offset=offset))
            frames.put(None)
        raise Untrue("the stream ended without a receipt")
    finally:
        frames.put(None)
        stream.cancel()


def submit(connection, site, ledger, payload, norm, /, instance=0, timeout=60, **fields):
    """Signs and sends a contribution; returns its receipt, verified. A duplicate's old receipt is
    as good as a new one."""
    header = contribution(site, ledger, payload, norm, **fields).pack()
    signature = signed.sign(site.key, signed.CONTRIBUTION_TAG, header)
    try:
        raw = send(connection, header, signature, payload, instance, timeout=timeout)
    except Refused as refused:
        if refused.code != "duplicate":
            raise
        raw = refused.answer.receipt
    return signed.read_receipt(raw, site.coordinator_key, header, signature)


# ---- snapshot, heartbeat, admin ------------------------------------------------------------------

def snapshot(connection, site, version=0, timeout=None):
    """Descriptor and content of the newest snapshot, or of that version; size and digest are
    checked here, the state root by model.Model.load."""
    request = m.SNAPSHOT_REQUEST.encode(protocol=PROTOCOL, version=version)
    descriptor, content = None, bytearray()
    for raw in connection.call("Snapshot", m.frame(request), timeout):
        header, piece = m.unframe(raw)
        f = m.SNAPSHOT_FRAME.decode(header)
        if f.descriptor:
            descriptor = signed.read_snapshot(f.descriptor, site.coordinator_key)
        if not descriptor or f.offset != len(content) or f.offset + len(piece) > f.total:
            raise Untrue("a snapshot's pieces came out of order")
        content += piece
    if not descriptor or descriptor.run_id != site.run_id:
        raise Untrue("a snapshot of another run")
    if len(content) != descriptor.content_size or sha256(content) != descriptor.content_digest:
        raise Untrue("a snapshot's content is not the one that its descriptor names")
    return descriptor, bytes(content)


def heartbeat(connection, ledger=None, timeout=30, **fields):
    """The reply; Refused where its code is not 0. `fields` are those of docs/protocol.md."""
    known = dict(epoch=ledger.epoch, version=ledger.version, ledger_size=len(ledger),
                 inner_steps_done=0) if ledger else {}
    told = dict(protocol=PROTOCOL, software=SOFTWARE, time_ms=time.time_ns() // 1000000)
    reply = connection.ask("Heartbeat", timeout, **{**told, **known, **fields})
    if reply.code:
        raise Refused(name_of(REFUSALS, reply.code), reply.message, reply)
    return reply


def admin(connection, verb, timeout=30, **fields):
    """The reply; Refused where its code is not 0. `verb`: a name of VERBS, or a number."""
    number = VERBS.get(verb, verb)
    reply = connection.ask("Admin", timeout, protocol=PROTOCOL, verb=number, **fields)
    if reply.code:
        raise Refused(name_of(ADMIN_CODES, reply.code), reply.message, reply)
    return reply


def invite(connection, name, ca_pem, hours=24):
    """A token for `join`."""
    import base64
    expires = time.time_ns() // 1000000 + int(hours * 3600000)
    reply = admin(connection, "invite", site_name=name, expires_ms=expires)
    der = x509.load_pem_x509_certificate(ca_pem).public_bytes(serialization.Encoding.DER)
    raw = bytes([1, len(name)]) + name.encode() + reply.invitation_secret + der
    return SimpleNamespace(token=base64.urlsafe_b64encode(raw).rstrip(b"=").decode(),
                           address=reply.address, name=name)
