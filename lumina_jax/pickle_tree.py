"""Reads a pickle as plain values: a machine of its own that imports and calls nothing and hashes only what is quick.

Names, calls and persistent ids stay what they are in the file, for the caller to look at. Containers are never
walked here, so neither depth nor sharing costs more than the file's length. To print what a pickle holds would walk
it: only a name may be.
"""

import io
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_PICKLE_BYTES = 64 * 2**20
MAX_OPCODES = 4_000_000  # about 50 a tensor
MAX_NAME = 1000  # characters
HASHED = (
    2**32
)  # integers from here on could all have one hash: every one would be compared with all before it
DAMAGE = (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error)


class BrokenFile(ValueError):
    """What is wrong inside a file; readers put the file's name before it."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class or function, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """A call that was not made; what the pickle does to its result is dropped."""

    function: Name
    arguments: tuple


@dataclass(frozen=True, eq=False, slots=True)
class Persistent:
    """What stands for something outside the pickle."""

    pid: Any


def read_pickle(content: bytes) -> Any:
    """The root value: of None, bool, int, float, str, bytes, tuple, list (also for a set), dict and the classes above.

    An OrderedDict is a dict. A key that is no text, bytes, None or integer below 2^32 is a `Persistent` of its own, as
    such keys are not compared. BrokenFile where the pickle is damaged, too large or needs an unknown opcode.
    """
    if len(content) > MAX_PICKLE_BYTES:
        raise BrokenFile(f"a pickle of {len(content)} bytes, at most {MAX_PICKLE_BYTES} are read")
    machine, file = _Machine(), io.BytesIO(content)
    try:
        for _ in range(MAX_OPCODES):
            opcode = _OPCODES.get(file.read(1).decode("latin-1"))
            if opcode is None:
                raise BrokenFile(f"a damaged pickle: no opcode at byte {file.tell()}")
            if opcode.name == "STOP":
                if machine.outer or len(machine.stack) != 1 or file.tell() != len(content):
                    raise BrokenFile("a pickle that ends too early")
                return machine.stack.pop()
            machine.run(opcode, file)
    except BrokenFile:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:100]
        raise BrokenFile(f"a damaged pickle: {type(error).__name__} {reason}") from error
    raise BrokenFile(f"a pickle of more than {MAX_OPCODES} opcodes")


class _Machine:
    """The stack and the memo; a mark puts the stack aside and starts another."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, opcode: pickletools.OpcodeInfo, file: io.BytesIO) -> None:
        """Carries out one opcode, whose argument `file` has; that of an unknown one is not even looked at."""
        name = opcode.name
        if name not in _GIVEN and name not in _NEW and name not in _ACTIONS:
            raise BrokenFile(f"the pickle opcode {name}, which no checkpoint needs")
        argument = opcode.arg.reader(file) if opcode.arg else None
        if name in _GIVEN:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        else:
            _ACTIONS[name](self, argument)

    def pop_marked(self) -> list[Any]:
        """What lies above the last mark."""
        above, self.stack = self.stack, self.outer.pop()
        return above


def _pop_several(machine: _Machine, count: int) -> tuple:
    if len(machine.stack) < count:
        raise IndexError("the stack is too short")
    above = tuple(machine.stack[-count:])
    del machine.stack[-count:]
    return above


def _mark(machine: _Machine, _: Any) -> None:
    machine.outer.append(machine.stack)
    machine.stack = []


def _pop(machine: _Machine, _: Any) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_marked()


def _pop_mark(machine: _Machine, _: Any) -> None:
    machine.pop_marked()


def _filled(create: Callable[[list], list | tuple]) -> Callable[[_Machine, Any], None]:
    def act(machine: _Machine, _: Any) -> None:
        above = machine.pop_marked()
        machine.stack.append(create(above))

    return act


def _small_tuple(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(_pop_several(machine, count))


def _put(machine: _Machine, index: int | None) -> None:
    index = len(machine.memo) if index is None else index
    if not 0 <= index < HASHED:
        raise BrokenFile(f"a memo place {str(index)[:20]}, want one from 0 to {HASHED - 1}")
    machine.memo[index] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _extend(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Call):
        raise TypeError(f"items for a {type(target).__name__}")


def _set(machine: _Machine, items: list[Any] | tuple) -> None:
    target = machine.stack[-1]
    if len(items) % 2 or not isinstance(target, dict | Call):
        raise TypeError(f"{len(items)} keys and values for a {type(target).__name__}")
    if isinstance(target, Call):
        return
    for key, value in zip(items[::2], items[1::2], strict=True):
        # the hash of a deep tuple overflows the stack of C: such a key becomes one that equals nothing
        key = key if _is_quick_key(key) else Persistent(None)
        if key in target:
            raise BrokenFile(f"a dictionary that has the key {str(key)[:100]!r} twice")
        target[key] = value


def _is_quick_key(key: Any) -> bool:
    """Whether nobody can choose many keys of this kind that have one hash."""
    return isinstance(key, str | bytes | None) or (isinstance(key, int) and -HASHED < key < HASHED)


def _call(machine: _Machine, count: int) -> None:
    function, arguments, *_ = _pop_several(machine, count)
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise TypeError(f"a call of a {type(function).__name__}")
    if str(function) == "collections.OrderedDict" and not arguments:
        machine.stack.append({})
    elif str(function) in _GETATTR and tuple(map(type, arguments)) == (Name, str):
        # how protocol 2 names a class inside a class
        machine.stack.append(_name(arguments[0].module, f"{arguments[0].name}.{arguments[1]}"))
    else:
        machine.stack.append(Call(function, arguments))


def _name(module: str, name: str) -> Name:
    """A name that may be printed for every value that has it."""
    if len(module) + len(name) > MAX_NAME:
        raise BrokenFile(f"a name of {len(module) + len(name)} characters, at most {MAX_NAME}")
    return Name(module, name)


def _build(machine: _Machine, _: Any) -> None:
    target, _ = _pop_several(machine, 2)
    machine.stack.append(target)


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.stack.append(_name(module, name))


def _stack_global(machine: _Machine, _: Any) -> None:
    module, name = _pop_several(machine, 2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a name that is not text")
    machine.stack.append(_name(module, name))


def _persistent(machine: _Machine, _: Any) -> None:
    machine.stack.append(Persistent(machine.stack.pop()))


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_GETATTR = ("__builtin__.getattr", "builtins.getattr")
_GIVEN = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 INT LONG BINFLOAT FLOAT UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "TUPLE": _filled(tuple),
    "TUPLE1": _small_tuple(1),
    "TUPLE2": _small_tuple(2),
    "TUPLE3": _small_tuple(3),
    "LIST": _filled(list),
    "FROZENSET": _filled(list),
    "BYTEARRAY8": lambda machine, argument: machine.stack.append(bytes(argument)),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"], _put),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], _get),
    "APPEND": lambda machine, _: _extend(machine, [machine.stack.pop()]),
    "APPENDS": lambda machine, _: _extend(machine, machine.pop_marked()),
    "ADDITEMS": lambda machine, _: _extend(machine, machine.pop_marked()),
    "SETITEM": lambda machine, _: _set(machine, _pop_several(machine, 2)),
    "SETITEMS": lambda machine, _: _set(machine, machine.pop_marked()),
    "REDUCE": lambda machine, _: _call(machine, 2),
    "NEWOBJ": lambda machine, _: _call(machine, 2),
    "NEWOBJ_EX": lambda machine, _: _call(machine, 3),
    "BUILD": _build,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": _persistent,
}
