"""What the attackers and the client's own test share: clients/python, a federation of real
processes, made-up certificates.

An attacker is a file of this folder, made of functions test_SENTENCE, that tests/abuse_NAME_test.sh
runs. Each test has a run of its own, `with Run() as run`, and asks at the end whether the honest
were served.
"""
import datetime
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from federation_harness import Federation, manifest  # noqa: E402
from script_test import ROOT, Skip, main, need, write  # noqa: E402, F401

CLIENT = os.path.join(ROOT, "clients", "python")
sys.path.insert(0, CLIENT)
PROGRAMS = os.environ.get("ATOLL_BIN") or os.path.join(ROOT, "build", "release", "bin")
SECONDS = 30 * float(os.environ.get("ATOLL_TEST_SLOWDOWN") or 1)


def needed():
    for package in ("grpc", "cryptography", "numpy"):
        need(package)
    if not os.path.exists(os.path.join(PROGRAMS, "atoll-coordinator")):
        raise Skip(f"there are no programs in {PROGRAMS}")


class Run:
    """A federation with a coordinator, ended with the block."""

    def __init__(self, codec="topk2-64", coordinator=(), descriptors=None, large=False,
                 text=None, **keys):
        """coordinator: options of its program; descriptors: as many as it may have open; large:
        enough for 64 fragments; text: the whole manifest."""
        needed()
        mode = "sparse" if codec.startswith("topk2") else "dense"
        text = text or manifest(mode=mode, codec__kind=codec, **keys)
        if large:
            text = text.replace("hidden: 32", "hidden: 128").replace("ffn: 64", "ffn: 256")
        self.federation = Federation(PROGRAMS, "federation", text)
        if descriptors:
            self.federation.limit_descriptors(descriptors)
        self.federation.start_coordinator(*coordinator)
        self.address = f"127.0.0.1:{self.federation.port}"
        self.keys = os.path.join(self.federation.run, "keys")
        self.run_id = bytes.fromhex(self.federation.status()["run_id"])
        self.open = []

    def read(self, name):
        with open(os.path.join(self.keys, name), "rb") as file:
            return file.read()

    def admin(self):
        """A connection of the admin's."""
        import atoll_client
        return self.kept(atoll_client.Connection.of_admin(self.address, self.keys))

    def token(self, name, role="site"):
        return self.federation.invite(name, "--role", role)["token"]

    def join(self, name, key=None, role="site"):
        import atoll_client
        return atoll_client.join(self.address, self.token(name, role), key)

    def follow(self, site, restored=False, **how):
        """A follower that has caught up and goes on."""
        import atoll_client
        follower = self.kept(atoll_client.Follower(self.address, site, **how))
        follower.start(restored=restored)
        follower.catch_up(seconds=SECONDS)
        return follower

    def kept(self, what):
        self.open.append(what)
        return what

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.open:
            one.close()
        self.federation.close()


def delta(count, seed, scale=1e-3):
    import numpy
    return numpy.random.default_rng(seed).normal(0, scale, count).astype(numpy.float32)


def noise(ledger, fragment=0, seed=0, scale=1e-3):
    """A message in the run's codec, and its norm."""
    from atoll_client import codec
    count = ledger.fragment_range(fragment)[1]
    message, sent = codec.encode(ledger.manifest["codec.kind"], delta(count, seed, scale))
    return message, codec.norm(sent)


def submit(follower, fragment=0, seed=0, scale=1e-3, patient=True, **fields):
    """A contribution of noise by a follower's site; its receipt. patient: refused for now, as a
    site is that contributes too often, it comes again."""
    import atoll_client
    message, norm = noise(follower.ledger, fragment, seed, scale)

    def once():
        return atoll_client.submit(
            follower.connection, follower.site, follower.ledger, message, norm, fragment=fragment,
            instance=follower.instance, timeout=SECONDS, **fields)
    return atoll_client.patiently(once, SECONDS) if patient else once()


class Authority:
    """A CA: the run's own, from its keys, or one of nobody."""

    def __init__(self, ca_pem=None, ca_key=None):
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from atoll_client import identity
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody's")])
        if ca_pem:
            ca = x509.load_pem_x509_certificate(ca_pem)
            self.key, self.name = serialization.load_pem_private_key(ca_key, None), ca.subject
            own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        else:
            self.key = identity.new_key()
            own = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        self.identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)

    def issue(self, uri, name="made-up", days=(-1, 30), purpose="CLIENT_AUTH", also=()):
        """(key, certificate), both PEM, for a new Ed25519 key. also: further URIs."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding
        from atoll_client import identity
        key, now = identity.new_key(), datetime.datetime.now(datetime.timezone.utc)
        usage = x509.KeyUsage(True, *[False] * 8)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days[0]))
            .not_valid_after(now + datetime.timedelta(days[1]))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(usage, True)
            .add_extension(x509.ExtendedKeyUsage([getattr(x509.ExtendedKeyUsageOID, purpose)]),
                           False)
            .add_extension(self.identifier, False))
        names = [x509.UniformResourceIdentifier(one) for one in (uri, *also) if one]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        certificate = builder.sign(self.key, None)
        return identity.key_pem(key), certificate.public_bytes(Encoding.PEM)
