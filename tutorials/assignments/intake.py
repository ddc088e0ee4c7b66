"""Open what students hand in, in a process of its own: archives, and the syntax trees of their functions.

An archive or a source may be made to harm whoever opens it, by its size, its depth or a fault of a parser. The process
has the limits of a worker (sandbox.py): it reads no file but the standard library, writes none, and ends in time.

    python intake.py unpack < archive       ->  {"files": [[path, base64, seconds], ...]}  or  {"refused": text}
    python intake.py trees < my_a3.py       ->  {"trees": {function: {hash: count}}}  or  {"refused": text}
"""

import ast
import base64
import bz2
import hashlib
import io
import json
import lzma
import os
import re
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter

ENTRIES = 20_000                                         # of an archive
UNPACKED = 64 << 20                                      # bytes of all its files, whatever its headers say
SOURCE = 1 << 20                                         # bytes of a Python file whose trees are taken
SMALLEST, LARGEST = 5, 200                               # tokens of a piece of a tree that counts


class Refused(Exception):
    """An archive that is not opened, or a source that is not read. The text says why."""


# ------------------------------------------------------------------------------------------------------------- archives


def is_archive(data):
    """Does this begin like a zip or a tar, compressed or not? Its name says nothing."""
    return data[:4] in (b"PK\3\4", b"PK\5\6") or data[:2] == b"\x1f\x8b" or data[:3] == b"BZh" or (
        data[:6] == b"\xfd7zXZ\0" or data[257:262] == b"ustar")


def unpack(data, only=""):
    """[(path, bytes, seconds of its clock)] of the files in an archive. only: files with this ending.

    Raises Refused for a path that leads outside, a link, a device, an encrypted file, the same path twice, more entries
    than ENTRIES, more bytes than UNPACKED.
    """
    try:
        entries = _zip_entries(data) if data[:2] == b"PK" else _tar_entries(_decompressed(data))
        files, left = {}, UNPACKED
        for number, (name, seconds, read) in enumerate(entries):
            if number >= ENTRIES:
                raise Refused(f"it has more than {ENTRIES} entries")
            path = _inside(name)
            if read is None or _is_litter(path) or not path.lower().endswith(only):
                continue
            if path in files:
                raise Refused(f"it holds {path!r:.80} twice")
            found = read(left + 1)
            left -= len(found)
            if left < 0:
                raise Refused(f"its files have more than {UNPACKED >> 20} MiB")
            files[path] = found, seconds
        return [(path, found, seconds) for path, (found, seconds) in files.items()]
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
            NotImplementedError, RuntimeError, OverflowError) as error:
        raise Refused(f"it is damaged ({type(error).__name__})") from None


def _inside(name):
    """A path without its detours.  Raises Refused for one that leads out of the archive's folder."""
    parts = name.replace("\\", "/").split("/")
    if not parts[0] and name or ".." in parts or re.match("[A-Za-z]:", name) or "\0" in name or len(name) > 1000:
        raise Refused(f"the path {name!r:.80} leads outside")
    return "/".join(part for part in parts if part not in ("", "."))


def _is_litter(path):
    """What operating systems leave in archives."""
    return any(part == "__MACOSX" or part.startswith("._") or part == ".DS_Store" for part in path.split("/"))


def _zip_entries(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused(f"{entry.filename!r:.80} is a link or a device")
            if entry.flag_bits & 1:
                raise Refused("it is encrypted")
            yield entry.filename, _seconds(entry.date_time), None if entry.is_dir() else (
                lambda limit, entry=entry: _read(archive.open(entry), limit))


def _seconds(moment):
    try:
        return time.mktime((*moment, 0, 0, -1))
    except (ValueError, OverflowError):
        return 0


def _tar_entries(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for entry in archive:
            if not entry.isreg() and not entry.isdir() or entry.issparse():
                raise Refused(f"{entry.name!r:.80} is a link or a device")
            yield entry.name, entry.mtime, None if entry.isdir() else (
                lambda limit, entry=entry: _read(archive.extractfile(entry), limit))


def _read(file, limit):
    with file:
        return file.read(limit)


def _decompressed(data):
    """A tar without its compression, read to the limit and not further."""
    limit, found = UNPACKED + (ENTRIES << 10), []
    while data:
        if data[:2] == b"\x1f\x8b":
            machine = zlib.decompressobj(31)
        elif data[:3] == b"BZh":
            machine = bz2.BZ2Decompressor()
        elif data[:6] == b"\xfd7zXZ\0":
            machine = lzma.LZMADecompressor(memlimit=256 << 20)
        else:
            break
        found.append(machine.decompress(data, limit))
        limit -= len(found[-1])
        if limit <= 0:
            raise Refused(f"its files have more than {UNPACKED >> 20} MiB")
        if not machine.eof:
            raise Refused("it is damaged (it ends too early)")
        data = machine.unused_data                       # a file may hold several streams
    return b"".join(found) if found else data


# --------------------------------------------------------------------------------------------------------- syntax trees


def trees(source):
    """{function: Counter of the pieces of its tree}: statements and expressions, whatever their variables are called.

    Renaming, reordering, comments, docstrings and hints change nothing. Within a piece, each variable stands for the
    place where it comes first; the operands of + and * are sorted; `x += y` is `x = x + y`.  Raises Refused where the
    source is no Python.
    """
    if len(source) > SOURCE:
        raise Refused(f"it has more than {SOURCE} bytes")
    try:
        found, ahead = {}, [("", ast.parse(source))]
        while ahead:
            before, node = ahead.pop()
            for part in getattr(node, "body", ()):
                if isinstance(part, ast.ClassDef):
                    ahead.append((f"{before}{part.name}.", part))
                elif isinstance(part, ast.FunctionDef):
                    pieces = []
                    for statement in _meant(part.body):
                        _tokens(statement, pieces)
                    found[before + part.name] = Counter(pieces)
        return found
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"it is no Python ({type(error).__name__})") from None


def _meant(body):
    """The statements that do something: no docstring, no bare name."""
    return [part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            and not isinstance(part, ast.Import | ast.ImportFrom | ast.Pass)]


def _tokens(node, pieces):
    """The tokens of a tree: a word, a variable as (name,), the two operands of + or * as a list of two token lists.
    Every statement and expression below is added to `pieces`."""
    if isinstance(node, ast.Name):
        return [(node.id,)]
    if isinstance(node, ast.AugAssign):
        node = ast.Assign([node.target], ast.BinOp(node.target, node.op, node.value))
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.Assign([node.target], node.value)
    tokens = [type(node).__name__]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        tokens += [type(node.op).__name__, [_tokens(node.left, pieces), _tokens(node.right, pieces)]]
    else:
        for field, value in ast.iter_fields(node):
            if field in ("ctx", "type_comment", "annotation", "returns", "kind"):
                continue
            values = _meant(value) if field == "body" and isinstance(value, list) else value
            for part in values if isinstance(values, list) else [values]:
                tokens += _tokens(part, pieces) if isinstance(part, ast.AST) else [
                    (part,) if field == "arg" and isinstance(node, ast.arg) else repr(part)]
    if isinstance(node, ast.stmt | ast.expr) and SMALLEST <= _size(tokens) <= LARGEST:
        places = {}
        text = "\0".join(_words(tokens, places))
        pieces.append(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest())
    return tokens


def _size(tokens):
    return sum(sum(map(_size, token)) if isinstance(token, list) else 1 for token in tokens)


def _words(tokens, places):
    """Tokens as words; a variable is the place where it came first. The operands of + and * are sorted by what is known
    of them so far, so that `n * dn` is `dn * n`."""
    for token in tokens:
        if isinstance(token, str):
            yield token
        elif isinstance(token, tuple):
            yield f"\1{places.setdefault(token, len(places))}"
        else:
            for side in sorted(token, key=lambda side: list(_known(side, places))):
                yield from _words(side, places)


def _known(tokens, places):
    for token in tokens:
        if isinstance(token, list):
            for side in token:
                yield from _known(side, places)
        else:
            yield token if isinstance(token, str) else f"\1{places.get(token, '')}"


# ---------------------------------------------------------------------------------------------------------- the process


def main():
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import encodings.cp437  # noqa: F401  the names in a zip may need it, and no file is opened later

    import sandbox

    what, only, parent = sys.argv[1], sys.argv[2], int(sys.argv[3])
    home = os.path.dirname(os.__file__)
    sandbox.enter(memory=1 << 30, seconds=20, parent=parent, readable=[home], listed=[])
    data = sys.stdin.buffer.read()
    try:
        if what == "unpack":
            answer = {"files": [[path, base64.b64encode(found).decode(), seconds]
                                for path, found, seconds in unpack(data, only)]}
        else:
            answer = {"trees": trees(data)}
    except Refused as refused:
        answer = {"refused": str(refused)}
    except MemoryError:
        answer = {"refused": "it needs too much memory to open"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
