"""The pickle machine: equal to pickle on plain values, and inert, bounded and clear on everything else."""

import collections
import contextlib
import pickle
import time

import pytest

from lumina_jax.pickle_tree import MAX_PICKLE_BYTES, BrokenFile, Call, Name, read_pickle

SHARED = [1, "two"]
PLAIN = {
    "numbers": [0, 1, -1, 255, 256, 2**31 - 1, -(2**31), 2**40, -(2**70), 1.5, float("inf")],
    "constants": (None, True, False),
    "texts": ("", "a", "ü" * 300, "\n"),
    "bytes": [b"", b"x" * 300],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "shared": [SHARED, SHARED],
    3: {4: {5: []}},
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_equal_those_of_pickle(protocol):
    """Protocol 2 is torch's; in it, bytes are a call."""
    root = {key: value for key, value in PLAIN.items() if protocol > 2 or key != "bytes"}
    got = read_pickle(pickle.dumps(root, protocol=protocol))
    assert got == root and got["shared"][0] is got["shared"][1]
    assert [type(n) for n in got["constants"]] == [type(None), bool, bool]


def test_ordered_dict_is_a_dict_with_its_items():
    ordered = collections.OrderedDict(b=1, a=[2])
    assert list(read_pickle(pickle.dumps(ordered, protocol=2)).items()) == [("b", 1), ("a", [2])]


def test_calls_are_not_made():
    """A harmful reduction is only described."""

    class Harmful:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    got = read_pickle(pickle.dumps([Harmful()], protocol=2))[0]
    assert isinstance(got, Call) and isinstance(got.function, Name)
    assert (str(got.function), got.arguments) == ("__builtin__.exec", ("raise SystemExit",))


class Outer:
    """Holds a class."""

    class Inner:
        """Named through the other by protocol 2 in a call of getattr."""


@pytest.mark.parametrize("protocol", [2, 4])
def test_class_inside_a_class_has_a_name_under_every_protocol(protocol):
    call = read_pickle(pickle.dumps(Outer.Inner(), protocol=protocol))
    assert str(call.function) == f"{__name__}.Outer.Inner"


DEEP = 100_000
NESTED = {
    "tuples": b"N" + b"\x85" * DEEP,
    "lists": b"]" * DEEP + b"a" * (DEEP - 1),
    "calls": b"cos\nsystem\n" * 30_000 + b"N" + b"\x85R" * 30_000,
    "a key": b"}N" + b"\x85" * 3 * DEEP + b"Ns",  # its hash would overflow the stack of C
}


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED)
def test_depth_overflows_nothing(body):
    """Neither while reading nor while forgetting."""
    assert isinstance(read_pickle(b"\x80\x02" + body + b"."), tuple | list | Call | dict)


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"", "no opcode at byte 0"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02.", "ends too early"),
        (b"\x80\x02NN.", "ends too early"),
        (b"\x80\x02N.N", "ends too early"),
        (b"\x80\x02(N.", "ends too early"),
        (b"\x80\x02h\x05.", "KeyError"),
        (b"\x80\x02t.", "IndexError"),
        (b"\x80\x02N\x86.", "IndexError"),
        (b"\x80\x02NNR.", "a call of a NoneType"),
        (b"\x80\x02cos\nsystem\n)R)R.", "a call of a Call"),
        (b"\x80\x02cos\nsystem\n" + b")R" * 3000 + b".", "a call of a Call"),
        (b"\x80\x02c" + b"o" * 1000 + b"\nsystem\n.", "a name of 1006 characters"),
        (b"\x80\x02Np-1\n.", "a memo place -1"),
        (b"\x80\x02Np4294967296\n.", "a memo place 4294967296"),
        (b"\x80\x02NNs.", "IndexError|keys and values"),
        (b"\x80\x02}X\x01\x00\x00\x00aNX\x01\x00\x00\x00aN\x86.", "ends too early"),
        (b"\x80\x02}(X\x01\x00\x00\x00aNX\x01\x00\x00\x00aNu.", "the key 'a' twice"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "damaged"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", "damaged"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", "damaged"),
        (b"\x80\x02\xff.", "damaged"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"(ios\nsystem\n.", "opcode INST"),
    ],
)
def test_damage_is_refused_in_one_line(pickled, reason):
    with pytest.raises(BrokenFile, match=reason) as error:
        read_pickle(pickled)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_too_large_a_pickle_is_refused():
    with pytest.raises(BrokenFile, match="at most"):
        read_pickle(bytes(MAX_PICKLE_BYTES + 1))


def test_sharing_is_not_multiplied():
    """Every list holds the one before it ten times: 10^60 items, were they walked."""
    layer = b"](" + b"h\x00" * 10 + b"eq\x00"
    start = time.monotonic()
    assert len(read_pickle(b"\x80\x02]q\x00" + b"".join([b"0" + layer] * 60) + b".")) == 10
    assert time.monotonic() - start < 30


MODULUS = 2**61 - 1  # Python's hash of an integer is its remainder by it
COLLIDING = {
    "keys": b"}("
    + b"".join(b"\x8a\x0b" + (k * MODULUS).to_bytes(11, "little") + b"N" for k in range(1, 20_000))
    + b"u",
    "memo": b"N" + b"".join(b"p%d\n" % (k * MODULUS) for k in range(20_000)),
}


@pytest.mark.parametrize("body", COLLIDING.values(), ids=COLLIDING)
def test_integers_of_one_hash_are_not_compared_with_each_other(body):
    """They would be 200 million comparisons, several seconds."""
    start = time.process_time()
    with contextlib.suppress(BrokenFile):
        assert len(read_pickle(b"\x80\x02" + body + b".")) == 19_999
    assert time.process_time() - start < 3


def test_names_do_not_grow_through_their_attributes():
    """Each call of getattr would lengthen the name by a megabyte."""
    text = b"X" + (2**20).to_bytes(4, "little") + b"a" * 2**20 + b"q\x000"
    pickled = b"\x80\x02" + text + b"c__builtin__\ngetattr\ncos\npath\nh\x00\x86R."
    with pytest.raises(BrokenFile, match="a name of 1048583 characters"):
        read_pickle(pickled)
