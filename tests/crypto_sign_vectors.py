#!/usr/bin/env python3
"""Makes the signatures in crypto_sign_test.c without OpenSSL: Ed25519 in integers, from the
formulas of RFC 8032 section 5.1. It first signs the RFC's own test 1-3, so that a mistake here
shows. Slow, and not for use with secrets."""
import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(a, b):  # affine points on -x^2 + y^2 = 1 + d x^2 y^2
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    return ((x1 * y2 + x2 * y1) * pow(1 + t, P - 2, P) % P,
            (y1 * y2 + x1 * x2) * pow(1 - t, P - 2, P) % P)


def times(n, point):
    total = (0, 1)
    while n:
        if n & 1:
            total = add(total, point)
        point = add(point, point)
        n >>= 1
    return total


def base():
    y = 4 * pow(5, P - 2, P) % P
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (P - x if x & 1 else x, y)


B = base()


def encode(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def number(data):
    return int.from_bytes(hashlib.sha512(data).digest(), "little") % L


def sign(seed, message):
    h = hashlib.sha512(seed).digest()
    s = int.from_bytes(h[:32], "little") & (1 << 254) - 8 | 1 << 254
    public = encode(times(s, B))
    r = number(h[32:] + message)
    R = encode(times(r, B))
    return public, R + ((r + number(R + public + message) * s) % L).to_bytes(32, "little")


RFC = [
    ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
     "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
     "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
     "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
]
for seed, message, wanted in RFC:
    assert sign(bytes.fromhex(seed), bytes.fromhex(message))[1].hex() == wanted
for (seed, message, _), tag in zip(RFC, ("atoll test v1", "t", "x" * 64)):
    print(sign(bytes.fromhex(seed), tag.encode() + b"\0" + bytes.fromhex(message))[1].hex())
print(sign(bytes.fromhex(RFC[0][0]), b"atoll test v1\0" + bytes(range(256)) * 20)[1].hex())
