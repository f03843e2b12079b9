"""Damage done to the bytes of a file, the same for the same seed."""

import bz2
import gzip
import io
import json
import lzma
import re
import struct
import zipfile

_PACKED = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ": lzma}
_EXTREMES = (0, 1, -1, 2, 127, 255, 256, 65535, 10**6, 2**30, 2**31 - 1, -(2**31), 0x4D415020)
_WORDS = (
    *("nan", "inf", "-inf", "1e999", "-1", "0", "-0.0", "1e-400", "99999999999999999999", "1e308"),
    *("1000000", "2147483648", "0x10", "1_000", "**********", "1.5", "1,5", "١٢", "½", "True"),
    *("None", "null", "", "''", '"', "data_", "loop_", "#", "%", "../../etc/passwd", "/etc/passwd"),
    *("9" * 5000, "." * 300, "\0", "é", "x" * 20_000),
)
_VALUES = (None, True, -1, 0, 1.5, 1e300, float("nan"), float("inf"), 10**30, "", "x", [], {},
           [[]], [None], [1, 2], ["a"], {"a": 1}, "../..", "/", 10**6)  # fmt: skip


def damaged(rng, content):
    """Content of a file after one to three mutations; what is compressed often stays so."""
    for magic, packer in _PACKED.items():
        if content.startswith(magic) and rng.random() < 0.7:
            return packer.compress(damaged(rng, packer.decompress(content)))
    if content.startswith(b"PK") and rng.random() < 0.7:
        return _repacked(rng, content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(_kinds(rng, content))(rng, content)
    return content


def _kinds(rng, content):
    if b"\0" in content[:4096]:
        return _BINARY
    if content.lstrip()[:1] in (b"{", b"[") and rng.random() < 0.6:
        return _JSON
    return _TEXT


def _repacked(rng, content):
    """ZIP archive with one of its members damaged, lost, twice there or under another name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, inside = members[at]
    members[at:at + 1] = rng.choice((
        [(name, damaged(rng, inside))], [(name, damaged(rng, inside))], [],
        [(name, inside), (name + "2", inside)], [(f"../{name}", inside)],
    ))  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice((0, 0, 0, zipfile.ZIP_DEFLATED))) as archive:
        for name, inside in members:
            archive.writestr(name, inside)
    return packed.getvalue()


def _span(rng, content, most=200):
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.randint(1, most))


def _truncated(rng, content):
    return content[: rng.randrange(1, len(content) + 1)] if content else b"x"


def _flipped(rng, content):
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 30)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwritten(rng, content):
    start, stop = _span(rng, content)
    filler = rng.choice((b"\0", b"\xff", b"\n", b" ", rng.randbytes(1)))
    return content[:start] + filler * (stop - start) + content[stop:]


def _inserted(rng, content):
    start, _ = _span(rng, content)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 16, 300))) + content[start:]


def _deleted(rng, content):
    start, stop = _span(rng, content)
    return content[:start] + content[stop:]


def _doubled(rng, content):
    start, stop = _span(rng, content, 1000)
    return content[:stop] + content[start:stop] * rng.choice((1, 1, 50)) + content[stop:]


def _number_in_header(rng, content):
    """Another size, count or offset, as headers of either byte order hold them."""
    if len(content) < 8:
        return b""
    at = 4 * rng.randrange(min(len(content), 1024) // 4)
    order, value = rng.choice("<>"), rng.choice(_EXTREMES)
    if rng.random() < 0.2:
        value = rng.choice((float("nan"), float("inf"), -1.0, 1e38, 1e-38))
        return content[:at] + struct.pack(f"{order}f", value) + content[at + 4:]  # fmt: skip
    return content[:at] + struct.pack(f"{order}i", value) + content[at + 4:]  # fmt: skip


def _number_in_text(rng, content):
    """Another number in texts that a binary file has in it, such as JSON or XML."""
    numbers = list(re.finditer(rb"\d+", content))
    if not numbers:
        return _flipped(rng, content)
    number = rng.choice(numbers)
    new = rng.choice(("0", "1", "7", "65", "1000", "1000000", "2147483648", "9" * 30, "-1", "x"))
    return content[: number.start()] + new.encode() + content[number.end() :]


def _lines(change):
    def mutated(rng, content):
        lines = content.split(b"\n")
        change(rng, lines)
        return b"\n".join(lines)

    return mutated


def _swap(rng, lines):
    one, other = (rng.randrange(len(lines)) for _ in "ab")
    lines[one], lines[other] = lines[other], lines[one]


def _drop(rng, lines):
    start = rng.randrange(len(lines))
    del lines[start : start + rng.choice((1, 1, 3, 20))]


def _repeat(rng, lines):
    start = rng.randrange(len(lines))
    lines[start:start] = lines[start : start + rng.choice((1, 1, 5))]


def _shuffle(rng, lines):
    start = rng.randrange(len(lines))
    some = lines[start : start + 6]
    rng.shuffle(some)
    lines[start : start + 6] = some


def _another_word(rng, content):
    """An odd word in place of another one, more often near the beginning."""
    words = list(re.finditer(rb"[^\s,;\"]+", content[: rng.choice((300, 3000, len(content) + 1))]))
    if not words:
        return b"\n"
    word = rng.choice(words)
    new = rng.choice(_WORDS).encode()
    return content[: word.start()] + new + content[word.end() :]


def _encoded(rng, content):
    text = content.decode("latin-1")
    return rng.choice((
        lambda: text.encode("utf-16"), lambda: text.encode("utf-16-be"),
        lambda: b"\xef\xbb\xbf" + content, lambda: text.encode("utf-32"),
        lambda: content.replace(b"\n", b"\r\n"), lambda: content.replace(b"\n", b"\r"),
        lambda: content.replace(b" ", b"\xa0"), lambda: content.replace(b"\n", b" "),
        lambda: content.replace(b"e", b"\xc3"), lambda: content.replace(b"1", b"\0", 1),
        lambda: content.replace(b" ", b"\t"), lambda: content.replace(b".", b","),
    ))()  # fmt: skip


def _json_value(rng, content):
    """One value or key of the tree changed, lost, or nested far too deep."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return _flipped(rng, content)
    holder, places = tree, []
    while isinstance(holder, dict | list) and holder:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        places.append((holder, rng.choice(list(keys))))
        holder = places[-1][0][places[-1][1]]
    if not places:
        return json.dumps(rng.choice(_VALUES)).encode()
    holder, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = "@deep@"
        depth = rng.choice((50, 5_000, 100_000))
        deep = "[" * depth + "]" * depth
        return json.dumps(tree).replace('"@deep@"', deep).encode()
    elif kind == 2:
        holder[key] = "@long@"
        return json.dumps(tree).replace('"@long@"', "9" * 5000).encode()
    elif kind == 3 and isinstance(holder, list):
        holder.append(rng.choice(_VALUES))
    elif kind == 4 and isinstance(holder, dict):
        holder[rng.choice(("", "x", key + " ", key.upper()))] = holder.pop(key)
    else:
        holder[key] = rng.choice(_VALUES)
    return json.dumps(tree).encode()


_ANY = [_truncated, _flipped, _overwritten, _inserted, _deleted, _doubled]
_BINARY = [*_ANY, *[_number_in_header] * 5, *[_number_in_text] * 2]
_TEXT = [*_ANY, *[_another_word] * 6, *map(_lines, (_swap, _drop, _repeat, _shuffle)), _encoded]
_JSON = [_json_value]
