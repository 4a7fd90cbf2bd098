"""Somebody who occupies what it can, as a process of its own, without manners: raw TLS and HTTP/2
frames by hand. Standard library only.

    attacker.py KIND PORT COUNT [CERTIFICATE KEY CALLS]

KIND is raw (TCP connections, nothing said), idle (TLS and HTTP/2, nothing asked), joins (on each
connection 128 Join calls, the message never sent), calls (on each connection what the file CALLS
says, a JSON list of [METHOD, MESSAGE in hex, whether it has said all], with a certificate; the
answers are never read, and each second the oldest connection is made anew). It holds COUNT
connections, again and again where they are closed, until its standard input ends; then it says in
JSON what it did. KIND@ADDRESS comes from that address of this machine.
"""
import json
import os
import select
import socket
import ssl
import struct
import sys
import time

STREAMS = 128


def frame(kind, flags, stream, body=b""):
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def text(value):
    return bytes([len(value)]) + value


def headers(path):
    """HPACK without Huffman and without a table."""
    return (b"\x83\x87" + b"\x04" + text(path) + b"\x01" + text(b"atoll-coordinator") +
            b"\x0f\x10" + text(b"application/grpc") + b"\x00" + text(b"te") + text(b"trailers"))


# No window for what the streams bring.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, 0))


class Attacker:
    def __init__(self, kind, port, count, certificate=None, key=None, calls=None):
        self.kind, _, source = kind.partition("@")
        self.source, self.port, self.count, self.script = source or "127.0.0.1", port, count, []
        if calls:
            with open(calls) as file:
                self.script = json.load(file)
        self.open, self.calls, self.opened, self.failed = [], 0, 0, 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.context.set_alpn_protocols(["h2"])
        if certificate:
            self.context.load_cert_chain(certificate, key)

    def connect(self):
        plain = socket.create_connection(("127.0.0.1", self.port), 2, (self.source, 0))
        self.opened += 1
        if self.kind == "raw":
            return plain
        try:
            secure = self.context.wrap_socket(plain, server_hostname="atoll-coordinator")
        except OSError:
            plain.close()
            raise
        secure.sendall(HELLO + self.first_words())
        return secure

    def first_words(self):
        if self.kind == "idle":
            return b""
        words, calls = b"", self.script or [("Join", "", False)] * STREAMS
        for i, (method, message, over) in enumerate(calls):
            self.calls += 1
            words += frame(1, 4, 2 * i + 1, headers(b"/atoll.v1.Atoll/" + method.encode()))
            if message:
                sent = bytes.fromhex(message)
                sent = b"\x00" + struct.pack(">I", len(sent)) + sent
                words += frame(0, int(over), 2 * i + 1, sent)
        return words

    def drop_closed(self):
        """What came is thrown away; settings are not acknowledged, windows never opened."""
        if not self.open:
            return
        poller = select.poll()
        by_number = {one.fileno(): one for one in self.open}
        for number in by_number:
            poller.register(number, select.POLLIN)
        for number, _ in poller.poll(0):
            one = by_number[number]
            one.setblocking(False)
            try:
                over = not one.recv(65536)
            except (ssl.SSLWantReadError, BlockingIOError):
                over = False
            except OSError:
                over = True
            if over:
                one.close()
                self.open.remove(one)

    def go_on(self):
        """Until our standard input ends."""
        said, renewed = False, time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            self.drop_closed()
            if self.script and self.open and time.monotonic() - renewed > 1:
                self.open.pop(0).close()
                renewed = time.monotonic()
            for _ in range(min(64, self.count - len(self.open))):
                try:
                    self.open.append(self.connect())
                except OSError:
                    self.failed += 1
                    time.sleep(0.01)
            if not said and (len(self.open) == self.count or self.opened > 2 * self.count):
                print("there", flush=True)
                said = True
            time.sleep(0.01)
        print(json.dumps({"kind": self.kind, "held": len(self.open), "calls": self.calls,
                          "opened": self.opened, "failed": self.failed}), flush=True)


if __name__ == "__main__":
    os.nice(19)
    arguments = sys.argv[1:]
    Attacker(arguments[0], int(arguments[1]), int(arguments[2]), *arguments[3:]).go_on()
