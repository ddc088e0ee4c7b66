"""The messages between the grader and a worker: what arrives is what was sent, and nothing else is believed."""

import io
import json
import os
import random
import sys
import time

import numpy as np
import pytest

from tutorials.assignments import protocol
from tutorials.assignments.protocol import ProtocolError, SharedMemory, TooLarge, Unsupported


def received(data, shared=None):
    stream = io.BytesIO(data)

    def read(n):
        part = stream.read(n)
        if len(part) < n:
            raise EOFError
        return part

    return protocol.receive(read, shared)


def framed(text, body=b""):
    return len(text).to_bytes(8, "little") + len(body).to_bytes(8, "little") + text + body


def test_a_tree_of_arrays_arrives_as_it_was():
    tree = {"a": (np.arange(6.0).reshape(2, 3)[:, ::2], None, [True, 2, "three", 4.5]), "b": np.float32(1), "c": {},
            "d": np.zeros((0, 3), "int32"), "e": np.array([np.nan, np.inf, 1j])}
    found = received(protocol.frame(tree))
    assert found.keys() == tree.keys()
    assert found["a"][1:] == (None, [True, 2, "three", 4.5])
    for mine, other in ((found["a"][0], tree["a"][0]), *((found[key], tree[key]) for key in "bde")):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        assert np.array_equal(mine, other, equal_nan=True)
        assert mine.flags.writeable


def test_what_is_no_data_arrives_as_its_name():
    odd = [object(), np.array([object()]), (x for x in ()), np.zeros((1,) * 9), 10**30, type("a\nb", (), {})()]
    assert [x.kind for x in received(protocol.frame(odd))] == [
        "object", "array of object", "generator", "array with 9 axes", "int of more than 18 digits", "object"]


@pytest.mark.parametrize("data", [
    b"", b"\0" * 3, b"\xff" * 64, protocol.frame(1)[:-1], protocol.frame(np.ones(3))[:-1],
    protocol.frame([1]).replace(b"list", b"exec"), protocol.frame(np.ones(3)).replace(b"float64", b"objects"),
    protocol.frame(np.ones(3)).replace(b"[3]", b"[9]"), protocol.frame(np.ones(3)).replace(b"[3]", b"[-]"),
    framed(b"{"), framed(b"[1]"), framed(b'{"a": 1, "b": 2}'), framed(b"{}"), framed(b'{"array": ["float64", [1.0]]}'),
    framed(b'{"array": ["float64", [true]]}', bytes(8)), framed(b'{"array": ["float64", null]}'),
    framed(b'{"array": [["float64"], [1]]}', bytes(8)), framed(b'{"tuple": {"dict": {}}}'), framed(b'{"dict": []}'),
    framed(b'{"unsupported": 3}'), framed(b'{"shared": ["float64", [4], [8], 0]}'), framed(b"1" * 40),
    framed(b'{"list": [' + b"1," * protocol.NODE_LIMIT + b"1]}"), framed(b'{"list": [' * 99 + b"]}" * 99),
    framed(b'{"array": ["int8", [' + b"1," * 8 + b"1]]}", b"1"), framed(b'{"list": []}', b"1"),
    framed(b'{"array": ["int8", [-1]]}', bytes(12)), framed(b" " * (protocol.TEXT_LIMIT + 1))], ids=range(28))
def test_what_is_no_message_is_refused(data):
    with pytest.raises((ProtocolError, EOFError)):
        received(data)


def test_a_length_is_refused_before_anything_of_that_length_is_read():
    read = []

    def header(n):
        read.append(n)
        return (protocol.TEXT_LIMIT + 1).to_bytes(8, "little") + bytes(8)

    with pytest.raises(ProtocolError):
        protocol.receive(header)
    assert read == [16]


def test_a_tree_that_is_too_large_is_not_sent():
    endless = []
    endless.append(endless)
    for tree in (endless, [0] * 5000, np.broadcast_to(1.0, (10**6, 10**6)), [np.zeros(1 << 20)] * 4,
                 {str(i) * 20: i for i in range(4000)}):
        with pytest.raises(TooLarge):
            protocol.frame(tree)


def test_damaged_messages_are_refused_and_nothing_else_happens():
    """4,000 messages with some bytes changed, and 4,000 made of the protocol's own words."""
    rng = random.Random(0)
    good = protocol.frame({"kind": "result", "number": 3, "value": ({"a": np.ones((2, 3))}, [None, 1.5, "x"])})
    words = ["{", "}", "[", "]", ":", ",", '"array"', '"dict"', '"list"', '"tuple"', '"unsupported"', '"float64"',
             '"kind"', '"shared"', "1", "-1", "1e999", "null", "true", "NaN", '"\\ud800"', '"x"']
    began = time.monotonic()
    for _ in range(4000):
        changed = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        for data in (bytes(changed), framed("".join(rng.choices(words, k=rng.randint(1, 30))).encode(), bytes(8))):
            try:
                protocol.checked(received(data))
            except (ProtocolError, EOFError):
                continue
    assert time.monotonic() - began < 30


VALID = {
    "started": {"walls": ["memory"]}, "ready": {"missing": []}, "enters": {"function": "f"},
    "refused": {"action": "opens", "what": "x"}, "raised": {"function": "", "type": "E", "text": "", "line": None},
    "evaluate": {}, "result": {"number": 1, "value": None}}


def test_a_message_has_the_fields_of_its_kind_and_no_others():
    assert VALID.keys() == protocol.KINDS.keys()
    for kind, fields in VALID.items():
        assert protocol.checked({"kind": kind, **fields}) == (kind, fields)
        wrong = [{}, None, [], {"kind": [kind], **fields}, {"kind": f"{kind}s", **fields}, {**fields},
                 {"kind": kind, **fields, "points": 100}]
        for name in fields:
            wrong.append({"kind": kind, **{other: x for other, x in fields.items() if other != name}})
            wrong += [{"kind": kind, **fields, name: x} for x in (
                [3], {}, 5.5, np.ones(2), Unsupported("x"), *([] if name == "line" else [None])) if name != "value"]
        for message in wrong:
            with pytest.raises(ProtocolError):
                protocol.checked(message)
    for line in (True, -1, 0, 10**9, "3"):
        with pytest.raises(ProtocolError):
            protocol.checked({"kind": "raised", **VALID["raised"], "line": line})


def test_the_largest_text_is_read_in_little_time_and_memory():
    import tracemalloc

    room = protocol.TEXT_LIMIT - 20
    for text in (b"[" + b"[],[]," * (room // 6) + b"[]]", b'{"list": [' + b"0," * (room // 2 - 10) + b"0]}",
                 b"1" * room, b"[" * room, b'{"a":' * (room // 5)):
        tracemalloc.start()
        began = time.monotonic()
        with pytest.raises(ProtocolError):
            received(framed(text))
        assert time.monotonic() - began < 5
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()


# -------------------------------------------------------------------------------------------------------- shared memory


@pytest.fixture
def shared(tmp_path):
    memory, source = SharedMemory.create(tmp_path)
    memory.source = source
    yield memory
    memory.close()
    if isinstance(source, int):
        os.close(source)


@pytest.mark.parametrize("strided", [False, True])
def test_an_array_in_shared_memory_is_sent_as_its_place(shared, strided):
    x = np.arange(6, dtype="float32").reshape(2, 3)
    placed = shared.place(x, strided)
    data = protocol.frame({"x": placed}, shared)
    assert len(data) < 100
    found = received(data, shared)["x"]
    assert np.array_equal(found, x)
    assert found.dtype == x.dtype
    assert found.flags.c_contiguous != strided
    found[1, 2] = 77                                     # what a function does to its argument is seen here
    assert placed[1, 2] == 77


def test_places_do_not_overlap_and_are_free_again_after_clear(shared):
    first, second = shared.place(np.zeros(5)), shared.place(np.ones(5))
    assert not first.any()
    assert second.all()
    shared.clear()
    assert shared.place_of(shared.place(np.zeros(5))) == shared.place_of(first) == 0
    assert shared.place_of(np.zeros(5)) is None
    with pytest.raises(TooLarge):
        shared.place(np.zeros(protocol.SHARED_SIZE, "int8"))


def test_shared_memory_cannot_be_cut_short(shared):
    if not sys.platform.startswith("linux"):
        pytest.skip("seals are Linux's")
    import fcntl

    for size in (0, protocol.SHARED_SIZE * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(shared.source, size)
    with pytest.raises(PermissionError):                 # a seal against writing would crash the grader, too
        fcntl.fcntl(shared.source, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_what_a_worker_calls_shared_is_refused(shared):
    with pytest.raises(ProtocolError):
        received(protocol.frame(shared.place(np.zeros(3)), shared))
    text = json.dumps({"shared": ["float64", [10**6], [8], protocol.SHARED_SIZE - 8]}).encode()
    with pytest.raises(ProtocolError):
        received(framed(text), shared)
