#!/usr/bin/env python3
"""Verifies a copy of a Sotto audit log from the published formats alone; shares no code with Sotto.

usage: verify.py FOLDER VKEY

Written from RFC 9162 (section 2.1), RFC 8032 (section 5.1), c2sp.org/signed-note, c2sp.org/tlog-checkpoint and
c2sp.org/tlog-tiles. Needs nothing but Python 3.8. Prints the size and root, or says what is wrong and exits 1.
"""

import base64
import hashlib
import pathlib
import struct
import sys


def refuse(why):
    sys.exit(f"refused: {why}")


# --- Ed25519 verification, RFC 8032 section 5.1 -------------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(a, b):
    """Addition in extended coordinates (section 5.1.4)."""
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g = 2 * D * a[3] * b[3] % P
    h = 2 * a[2] * b[2] % P
    x, y, z, t = f - e, h - g, h + g, f + e
    return x * y % P, z * t % P, y * z % P, x * t % P


def multiply(n, point):
    total = (0, 1, 1, 0)
    while n:
        if n & 1:
            total = add(total, point)
        point = add(point, point)
        n >>= 1
    return total


def decompress(data):
    """Decoding of a point (section 5.1.3)."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - xx) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def same(a, b):
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


BASE = decompress(((4 * pow(5, P - 2, P)) % P).to_bytes(32, "little"))


def ed25519_verifies(public, message, signature):
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = decompress(public), decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    k = int.from_bytes(digest, "little") % L
    return same(multiply(s, BASE), add(r, multiply(k, a)))


# --- Signed note and checkpoint ------------------------------------------------------------------------------------


def read_checkpoint(note, vkey):
    name, key_id, key = vkey.split("+", 2)
    key = base64.b64decode(key, validate=True)
    expected = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    if key[0] != 1 or expected.hex() != key_id:
        refuse("the verifier key is not one of type Ed25519 with its own id")
    text, separator, signatures = note.rpartition("\n\n")
    if not separator:
        refuse("the checkpoint is not a signed note")
    text += "\n"
    verified = 0
    for line in signatures.splitlines():
        dash, signer, encoded = line.split(" ")
        if dash != "\u2014":
            refuse("a signature line does not begin with a dash")
        raw = base64.b64decode(encoded, validate=True)
        if signer == name and raw[:4] == expected:
            if not ed25519_verifies(key[1:], text.encode(), raw[4:]):
                refuse("the signature does not verify")
            verified += 1
    if not verified:
        refuse("the checkpoint is not signed by this key")
    origin, size, root = text.splitlines()
    if origin != name or str(int(size)) != size:
        refuse("the checkpoint is of another log or not in its form")
    return int(size), base64.b64decode(root, validate=True)


# --- Tree and tiles ------------------------------------------------------------------------------------------------


def leaf(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(hashes):
    """RFC 9162 section 2.1.1, by its recursive definition."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return node(tree_hash(hashes[:k]), tree_hash(hashes[k:]))


def number(index):
    parts = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03}")
    return "/".join(parts)


def read(folder, kind, index, width):
    """A full or partial resource; a full one may stand in for a partial one."""
    path = folder / "tile" / kind / number(index)
    partial = path.with_name(path.name + ".p") / str(width)
    if width < 256 and partial.is_file():
        return partial.read_bytes(), width
    if path.is_file():
        return path.read_bytes(), 256
    refuse(f"{partial if width < 256 else path} is missing")


def entries_of(bundle, count):
    entries, at = [], 0
    while at < len(bundle):
        (length,) = struct.unpack_from(">H", bundle, at)
        entry = bundle[at + 2 : at + 2 + length]
        if len(entry) != length:
            refuse("a bundle ends inside an entry")
        entries.append(entry)
        at += 2 + length
    if len(entries) != count:
        refuse("a bundle has a wrong number of entries")
    return entries


def verify(folder, vkey):
    size, root = read_checkpoint((folder / "checkpoint").read_bytes().decode(), vkey)
    hashes = []
    for index in range((size + 255) // 256):
        width = min(256, size - index * 256)
        bundle, held = read(folder, "entries", index, width)
        hashes.extend(leaf(entry) for entry in entries_of(bundle, held)[:width])
    if len(hashes) != size or tree_hash(hashes) != root:
        refuse("the entries do not lead to the signed root")
    # Every tile of every level: level 0 holds the leaves, each other the roots of the full tiles below it.
    level = 0
    while hashes:
        for index in range((len(hashes) + 255) // 256):
            expected = hashes[index * 256 : (index + 1) * 256]
            tile, held = read(folder, str(level), index, len(expected))
            if len(tile) != 32 * held or tile[: 32 * len(expected)] != b"".join(expected):
                refuse(f"tile {index} of level {level} is not that of its entries")
        hashes = [tree_hash(hashes[i : i + 256]) for i in range(0, len(hashes) - 255, 256)]
        level += 1
    print(f"{size} {root.hex()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    verify(pathlib.Path(sys.argv[1]), sys.argv[2])
