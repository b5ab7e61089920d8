"""The default key of a task: a digest of its function and of the content of its arguments.

Equal content gives equal keys, in other processes and on other days: the order of a dict or set does not matter, nor
does whether two equal strings are one object. Plain pickle promises neither. The way of a value is that of pickle:
builtin values and paths by content, functions and classes by name, other objects by what `__reduce_ex__` returns.

A function that can be imported counts by its name: its key stays when its body changes, so that a batch continues after
a fix. A lambda or nested function has no name of its own: it counts by its code, defaults and closure.
"""

from __future__ import annotations

import copyreg
import functools
import os
import reprlib
import struct
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from procbackground.shared import Shared

KEY_BYTES = 16
COMMAND_LENGTH = 200  # characters of a call's text that are kept

# Their `ascii` is exact, and the same in every version of Python.
_SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None), type(...)})
# Where its classes are depends on the version of Python, as does what their `__reduce__` returns.
_PATHLIB = frozenset({"pathlib", "pathlib._local"})
_LONG = 4000  # digits of an int that may not be converted to text
_MAX_DEPTH = 200
_LENGTH = struct.Struct("<Q")


def default_key(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the key of a call, its text as people read it, and the name of its function.

    Runs the user's `__reduce_ex__`. Raises what that raises.
    """
    identity, name = _identity_and_name(fn)
    if not kwargs and _are_scalars(args):
        text = ascii(args)  # nearly always: a fifth of the time of what follows
        key = blake2b(identity + text.encode(), digest_size=KEY_BYTES).hexdigest()
        return key, _shortened(f"{name}({text[1 : -2 if len(args) == 1 else -1]})"), name
    encoder = _Encoder()
    data = encoder.digest(args) + encoder.digest(dict(kwargs))
    key = blake2b(identity + data, digest_size=KEY_BYTES).hexdigest()
    return key, _shortened(f"{name}({_shown_arguments(args, kwargs)})"), name


def describe(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, str]:
    """Return what `default_key` does beside the key. What cannot be shown becomes three dots."""
    name = _identity_and_name(fn)[1] if _is_named(fn) else function_name(fn)
    return _shortened(f"{name}({_shown_arguments(args, kwargs)})"), name


def _identity_and_name(fn: Any) -> tuple[bytes, str]:
    """Return what a function is known by from run to run, where it is defined or a digest of its content; its name."""
    # What a closure holds may change between two calls, and is not kept alive here.
    return _kept_identity_and_name(fn) if _is_named(fn) else (_identity(fn), function_name(fn))


def _is_named(fn: Any) -> bool:
    """Whether `fn` is a function that is known by its name."""
    kind = type(fn)
    if kind is types.FunctionType:
        return "<" not in fn.__qualname__
    return kind is types.BuiltinFunctionType and type(fn.__self__) is types.ModuleType


@functools.lru_cache(512)
def _kept_identity_and_name(fn: Any) -> tuple[bytes, str]:
    return _identity(fn), function_name(fn)


def _identity(fn: Any) -> bytes:
    name = _name_of(fn)
    return _Encoder().digest(fn) if name is None else name.encode("utf-8", "surrogatepass") + b"\0"


def function_name(fn: Any) -> str:
    """Return the place of a function, for people: as `_name_of`, or the nearest to it."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return f"{_module_of(fn)}.{name}"


def _shown_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    shown = [_shown(each) for each in args]
    shown += [f"{name}={_shown(value)}" for name, value in kwargs.items()]
    return ", ".join(shown)


def _shown(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except Exception:  # the user's `__repr__` may raise anything
        return "..."


def _shortened(text: str) -> str:
    return text if len(text) <= COMMAND_LENGTH else f"{text[: COMMAND_LENGTH - 4]}...)"


def _are_scalars(values: Iterable[Any]) -> bool:
    for value in values:
        kind = type(value)
        if kind not in _SCALARS or (kind is int and value.bit_length() > _LONG):
            return False
    return True


def _module_of(thing: Any) -> str:
    """Return the module of a function or class; for that of the script, the name that it would be imported by."""
    module = getattr(thing, "__module__", None)
    if module not in ("__main__", "__mp_main__"):
        return module or type(thing).__module__
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if getattr(spec, "name", None):
        return spec.name.removesuffix(".__main__")  # type: ignore[union-attr, no-any-return]
    path = getattr(main, "__file__", None)
    return "__main__" if not path else os.path.splitext(os.path.basename(path))[0]


def _name_of(thing: Any) -> str | None:
    """Return the module and qualified name of a function or class, or None for one that cannot be found by it."""
    if not isinstance(thing, (types.FunctionType, types.BuiltinFunctionType, type)):
        return None
    owner = thing.__self__ if isinstance(thing, types.BuiltinFunctionType) else None
    if owner is not None and not isinstance(owner, types.ModuleType):
        return None  # a method of some object
    name = thing.__qualname__
    if not isinstance(thing, type) and "<" in name:
        return None
    return f"{_module_of(thing)}:{name}"


class _Encoder:
    """Digests values, each object once: an object that occurs at many places costs no more."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes]] = {}  # by id; the object is kept, as its id must stay its own
        self._open: dict[int, int] = {}  # objects that are being digested: at which depth each began

    def digest(self, value: Any) -> bytes:
        """Return the digest of a value."""
        kind = type(value)
        if kind in _SCALARS and not (kind is int and value.bit_length() > _LONG):
            # Bytes of text are as good as its `ascii`, and those of long texts quicker to have.
            if kind is str:
                return _hash("s", value.encode("utf-8", "surrogatepass"))
            return _hash("b", value) if kind is bytes else _hash("v", ascii(value).encode())
        if kind is int:
            return _hash("i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._open:
            return _hash("cycle", b"%d" % (len(self._open) - self._open[id(value)]))
        if len(self._open) >= _MAX_DEPTH:
            raise RecursionError("arguments are nested too deeply for a key")
        self._open[id(value)] = len(self._open)
        try:
            found = self._digest_parts(value, kind)
        finally:
            del self._open[id(value)]
        self._known[id(value)] = (value, found)
        return found

    def _digest_parts(self, value: Any, kind: type) -> bytes:
        if kind is tuple or kind is list:
            return _hash(kind.__name__, *map(self.digest, value))
        if kind is dict:
            return _hash("dict", *sorted(self.digest(key) + self.digest(part) for key, part in value.items()))
        if kind is set or kind is frozenset:
            return _hash(kind.__name__, *sorted(map(self.digest, value)))
        if kind is bytearray:
            return _hash("bytearray", value)
        if kind.__module__ in _PATHLIB and hasattr(kind, "__fspath__"):
            return _hash(f"pathlib.{kind.__name__}", os.fspath(value).encode("utf-8", "surrogatepass"))
        if kind is Shared:
            return _hash("shared", value._file.digest())
        if kind is types.ModuleType:
            return _hash("module", value.__name__.encode())
        name = _name_of(value)
        if name is not None:
            return _hash("name", name.encode("utf-8", "surrogatepass"))
        if kind is types.FunctionType:
            return self._digest_function(value)
        if kind is types.MethodType:
            return _hash("method", self.digest(value.__func__), self.digest(value.__self__))
        if kind is types.CodeType:
            return self._digest_code(value)
        return self._digest_reduced(value, kind)

    def _digest_function(self, fn: types.FunctionType) -> bytes:
        cells = [cell.cell_contents for cell in fn.__closure__ or ()]
        facts = (fn.__qualname__, fn.__defaults__, fn.__kwdefaults__, cells)
        return _hash("function", _module_of(fn).encode(), self._digest_code(fn.__code__), *map(self.digest, facts))

    def _digest_code(self, code: types.CodeType) -> bytes:
        # Not where it stands in the file, so that lines added above it change nothing.
        facts = (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_consts)
        return _hash("code", *map(self.digest, facts))

    def _digest_reduced(self, value: Any, kind: type) -> bytes:
        reduce = copyreg.dispatch_table.get(kind)
        reduced: Any = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return _hash("global", f"{_module_of(value)}:{reduced}".encode())
        # Function, arguments, state, then iterators over items of a list and of a dict, as pickle has it.
        parts = list(reduced)[:5]
        for position in range(3, len(parts)):
            parts[position] = None if parts[position] is None else list(parts[position])
        return _hash("object", *map(self.digest, parts))


def _hash(kind: str, *parts: bytes | bytearray) -> bytes:
    # Digests have a fixed length, and so need no separator. Only a single part may have another.
    found = blake2b(kind.encode() + b"\0" + _LENGTH.pack(len(parts)), digest_size=KEY_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()
