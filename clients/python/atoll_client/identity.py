"""Keys, invitation tokens, certificate requests, and a site's directory.

The directory is atoll-node's own (`node.key`, `node.pem`, `ca.pem`, `site.json`, `manifest.yaml`):
what one of the two has joined, the other can go on with.
"""
import base64
import json
import os
from dataclasses import dataclass
from types import SimpleNamespace

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET_SIZE = 24
RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


def new_key():
    return Ed25519PrivateKey.generate()


def public_bytes(key):
    return key.public_key().public_bytes(*RAW)


def key_pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def request_der(key):
    """PKCS #10, signed with the key. Its names count for nothing, so it has none."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
    return request.public_bytes(serialization.Encoding.DER)


def read_token(token):
    """base64url of: 1, length of the name, name, 24-byte secret, the CA's certificate in DER."""
    token = token.strip()
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    if len(raw) < 2 or raw[0] != 1:
        raise ValueError("the token is damaged, or of a newer format: paste it whole")
    end = 2 + raw[1]
    ca = x509.load_der_x509_certificate(raw[end + SECRET_SIZE:])
    return SimpleNamespace(name=raw[2:end].decode(), secret=raw[end:end + SECRET_SIZE],
                           ca_pem=ca.public_bytes(serialization.Encoding.PEM))


@dataclass
class Site:
    """Who a site is, and whom it trusts."""
    number: int
    name: str
    run_id: bytes
    coordinator_key: bytes
    key: Ed25519PrivateKey
    certificate_pem: bytes
    ca_pem: bytes
    manifest: bytes

    @property
    def key_pem(self):
        return key_pem(self.key)

    @property
    def public_key(self):
        return public_bytes(self.key)

    def save(self, directory):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        path = os.path.join(directory, "node.key")
        if not os.path.exists(path):
            write_private(path, self.key_pem)
        elif public_bytes(load_key(path)) != self.public_key:
            raise FileExistsError(f"{path} is another key, and keys are not overwritten")
        about = {"site": self.number, "name": self.name, "run_id": self.run_id.hex(),
                 "coordinator_key": self.coordinator_key.hex()}
        for name, content in (("node.pem", self.certificate_pem), ("ca.pem", self.ca_pem),
                              ("manifest.yaml", self.manifest),
                              ("site.json", json.dumps(about, indent=2).encode() + b"\n")):
            with open(os.path.join(directory, name), "wb") as file:
                file.write(content)

    @classmethod
    def load(cls, directory):
        def read(name):
            with open(os.path.join(directory, name), "rb") as file:
                return file.read()
        about = json.loads(read("site.json"))
        key = serialization.load_pem_private_key(read("node.key"), None)
        return cls(about["site"], about["name"], bytes.fromhex(about["run_id"]),
                   bytes.fromhex(about["coordinator_key"]), key, read("node.pem"), read("ca.pem"),
                   read("manifest.yaml"))


def write_private(path, content):
    """Never over another key."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def load_key(path):
    """The key of an interrupted join is used again, else its invitation would be lost."""
    with open(path, "rb") as file:
        return serialization.load_pem_private_key(file.read(), None)
