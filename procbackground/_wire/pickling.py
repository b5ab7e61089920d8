"""Pickles functions, arguments and values, and names the part that cannot be pickled.

Plain pickle is tried first, then cloudpickle, which takes 15 ms to import and so is imported on first need. Parent and
child both use this.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence

from procbackground._load import load
from procbackground._wire import descriptors
from procbackground._wire.descriptors import MOST_DESCRIPTORS, Collector, collect, collected_so_far, forget_since
from procbackground._wire.mainmodule import (
    MAIN_NAMES,
    belongs_to_main,
    can_refer_to,
    main_is_importable,
    main_is_whole,
)
from procbackground._wire.parcel import PARCEL_BYTES, Parcel, may_pack, pack, raw_buffers
from procbackground.errors import SerializationError, repr_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 5

_FUNCTIONS_BY_REFERENCE = (types.FunctionType, types.BuiltinFunctionType, type)


def dumps(value: Any, buffers: list[pickle.PickleBuffer] | None = None) -> bytes:
    """Pickle `value`, with cloudpickle where plain pickle cannot. Raises whatever cloudpickle raises.

    Connections, sockets and shared values are refused, except within `descriptors.collect`.

    Args:
        buffers: takes the buffers of arrays and the like, which are not in the pickle then.
    """
    if not descriptors.knows_connections and descriptors.CONNECTIONS in sys.modules:
        descriptors.know_connections()
    mark = collected_so_far()
    take_buffer = None if buffers is None else buffers.append
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=take_buffer)
    except Exception:
        pass
    else:
        # A reference to what the other side's `__main__` does not have would only fail there.
        is_known = main_is_whole() or b"__main__" not in data or _has_only_known_names(value)
        if is_known and not ("loguru" in sys.modules and b"loguru._logger" in data):
            return data
    forget_since(mark)
    if buffers is not None:
        buffers.clear()
    load("procbackground._wire.byvalue")
    from procbackground._wire import byvalue

    return byvalue.dumps(value, PROTOCOL, take_buffer)


class _NameCheckingPickler(pickle.Pickler):
    """Raises `PicklingError` at a function or class of `__main__` that the other side does not have."""

    def reducer_override(self, value: Any) -> Any:
        if belongs_to_main(value) and not can_refer_to(value):
            raise pickle.PicklingError(f"{value!r} is not in the main module of the other side")
        return NotImplemented


def _has_only_known_names(value: Any) -> bool:
    """Whether all of `__main__` that the pickle of `value` refers to is there on the other side."""
    if not main_is_importable():
        return False
    mark = collected_so_far()
    try:
        _NameCheckingPickler(io.BytesIO(), PROTOCOL, buffer_callback=_leave_out).dump(value)
    except Exception:
        return False
    finally:
        forget_since(mark)
    return True


def _leave_out(buffer: pickle.PickleBuffer) -> None:
    """Have a buffer left out of a pickle that is not kept."""


def dump_parts(value: Any) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of `value`, and the buffers that are not in it. Raises: as `dumps`."""
    mark = collected_so_far()
    buffers: list[pickle.PickleBuffer] = []
    data = dumps(value, buffers)
    raw = raw_buffers(buffers)
    if raw is not None:
        return data, raw
    forget_since(mark)
    return dumps(value), []


def dump_collecting(value: Any) -> bytes | Parcel:
    """Pickle `value` as `dump_payload` does, also if it holds connections, sockets or shared values, or by cloudpickle.

    Raises: as `dumps`; `OSError` where no file can be made for what cannot go without.
    """

    def dump(collector: Collector) -> bytes | Parcel:
        data, buffers = dump_parts(value)
        check_count(len(collector.files))
        if collector.has_any:
            return pack(data, buffers, collector.files, collector.shares)
        return _packed_if_large(value, data, buffers)

    return collect(dump)


def _packed_if_large(value: Any, data: bytes, buffers: Sequence[memoryview]) -> bytes | Parcel:
    if len(data) + sum(view.nbytes for view in buffers) >= PARCEL_BYTES and may_pack():
        try:
            return pack(data, buffers)
        except OSError:
            pass  # no memory file can be made; the slower way works, too
    return dumps(value) if buffers else data


def check_count(count: int) -> None:
    """Raise `PicklingError` for more connections and sockets than can cross at once."""
    if count > MOST_DESCRIPTORS:
        raise pickle.PicklingError(f"it holds {count} connections or sockets; {MOST_DESCRIPTORS} can cross at once")


def count_descriptors(value: Any) -> int:
    """Return how many connections and sockets `value` holds. Raises: as `dumps`."""

    def dump(collector: Collector) -> int:
        dumps(value, [])
        return len(collector.files)

    return collect(dump)


def holds_descriptors(value: Any) -> bool:
    """Whether `value` can be pickled within `collect` only, because of connections or sockets in it."""
    try:
        return count_descriptors(value) > 0
    except Exception:
        return False


def dump_payload(value: Any) -> bytes | Parcel:
    """Pickle arguments or a result; return a large pickle, or one with connections and the like, as a parcel.

    Raises: as `dumps`.
    """
    if not descriptors.knows_connections and descriptors.CONNECTIONS in sys.modules:
        descriptors.know_connections()
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
    except Exception:
        return dump_collecting(value)
    names_main = b"__main__" in data[:PARCEL_BYTES] and not main_is_whole()
    if not (buffers or names_main) and len(data) < PARCEL_BYTES:
        return data  # nearly always
    if names_main and not _has_only_known_names(value):
        return dump_collecting(value)
    raw = raw_buffers(buffers)
    return dumps(value) if raw is None else _packed_if_large(value, data, raw)


def dump_to_share(value: Any) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of a value that is to be shared, and the buffers that are not in it.

    Raises: `SerializationError`.
    """
    whole: Any = _Buffer(value) if type(value) in (bytes, bytearray, memoryview) else value
    try:
        return dump_parts(whole)
    except BaseException as error:
        if not is_of_users_code(error):
            raise
        raise _explained("value to be shared", value, error) from error


class _Buffer:
    """Pickles bytes, or a view of them, out of band: a copy less."""

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        kind = type(self.value)
        if kind is not memoryview:
            return kind, (pickle.PickleBuffer(self.value),)
        view: Any = self.value
        if not view.c_contiguous:
            raise TypeError("cannot share a memoryview that is not contiguous")
        memoryview(bytes(view.itemsize)).cast(view.format)  # raises here, not in the worker, if it cannot be restored
        return _as_view, (pickle.PickleBuffer(view), view.format, view.shape)


def _as_view(buffer: Any, format: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer).cast("B")
    return view if (format, len(shape)) == ("B", 1) else view.cast(format, shape)  # type: ignore[call-overload]


def dump_function(fn: Callable[..., Any]) -> bytes | None:
    """Pickle the function of a task. Raises: `SerializationError`.

    Returns None if it has to be sent as an argument, of `call_sent`: it holds connections, sockets or shared values, or
    is large.
    """

    def dump(collector: Collector) -> bytes | None:
        data, buffers = dump_parts(fn)
        check_count(len(collector.files))
        if collector.has_any or len(data) + sum(view.nbytes for view in buffers) >= PARCEL_BYTES:
            return None
        return dumps(fn) if buffers else data

    try:
        return collect(dump)
    except BaseException as error:
        if not is_of_users_code(error):
            raise
        raise _explained("function", fn, error) from error


def dump_state(state: Any) -> bytes:
    """Pickle a state that a task saves. Raises: `SerializationError`."""
    try:
        return dumps(state)
    except Exception as error:
        raise _explained("state to be saved", state, error) from error


def dump_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | Parcel:
    """Pickle the arguments of a call: `args` alone, or with `kwargs`. Raises: `SerializationError`."""
    arguments = (args, dict(kwargs)) if kwargs else args
    try:
        return dump_payload(arguments)
    except BaseException as error:
        if not is_of_users_code(error):
            raise
        for position, value in enumerate(args):
            if _refuses(value):
                raise _explained(f"argument {position}", value, error) from error
        for name, value in kwargs.items():
            if _refuses(value):
                raise _explained(f"argument {name!r}", value, error) from error
        raise _explained("arguments", arguments, error) from error


def is_of_users_code(error: BaseException) -> bool:
    """Whether `error` comes from the user's code that was just called, such as a `__reduce__` that calls `sys.exit`.

    In the main thread only an `Exception` certainly does: signal handlers run there, and may raise Ctrl-C or an exit.
    """
    return isinstance(error, Exception) or threading.current_thread() is not threading.main_thread()


def is_stateless(fn: Callable[..., Any]) -> bool:
    """Whether `fn` is pickled by name only, so that its bytes can be cached: they never change."""
    return (
        isinstance(fn, _FUNCTIONS_BY_REFERENCE)
        and getattr(fn, "__self__", None).__class__ in (types.NoneType, types.ModuleType)
        and "<" not in getattr(fn, "__qualname__", "<")
        and (getattr(fn, "__module__", None) not in MAIN_NAMES or can_refer_to(fn))
    )


# -- the part that cannot be pickled -------------------------------------------------------------------------


def explain_result(value: Any, error: BaseException) -> SerializationError:
    """Return the error that names the part of the result `value` that cannot be pickled. In a worker."""
    return _explained("result", value, error, in_worker=True)


def _explained(what: str, value: Any, error: BaseException, in_worker: bool = False) -> SerializationError:
    path, culprit = _find_culprit(value, in_worker=in_worker)
    where = f", at {path.strip()}" if path else ""
    kind = type(culprit)
    reason = text_of(error) or type(error).__name__
    return SerializationError(
        f"the {what} cannot be pickled: {kind.__module__}.{kind.__qualname__}{where} ({reason}){_hint_for(culprit)}"
    )


def _hint_for(culprit: Any) -> str:
    """Return what to do instead, for what users try most often."""
    if isinstance(culprit, (types.CoroutineType, types.AsyncGeneratorType)):
        return "; a task has no event loop: run the coroutine within the task, by asyncio.run(...)"
    if isinstance(culprit, types.GeneratorType):
        return "; make it a list"
    if _is_of_multiprocessing(culprit):
        return "; give it to the workers in initargs, or use what a multiprocessing.Manager() makes"
    return ""


def _is_of_multiprocessing(value: Any) -> bool:
    return type(value).__module__.startswith("multiprocessing.")


def _refuses(value: Any, in_worker: bool = False) -> bool:
    """Whether `value` cannot be pickled."""
    try:
        count_descriptors(value)
    except BaseException as error:
        if in_worker or is_of_users_code(error):
            return True
        raise
    return False


def _find_culprit(value: Any, *, in_worker: bool = False) -> tuple[str, Any]:
    """Return the path to the innermost part of `value` that cannot be pickled, and that part."""
    path = ""
    passed = [value]  # of functions that call each other, the way must not go round and round
    while len(passed) <= 8:  # a deeper path does not help to find the part
        for step, part in _parts_of(value):
            if not any(part is each for each in passed) and _refuses(part, in_worker):
                path, value = path + step, part
                passed.append(part)
                break
        else:
            break
    return path, value


def _parts_of(value: Any) -> list[tuple[str, Any]]:
    if _is_of_multiprocessing(value):
        return []  # its parts say less than it does
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in list(value.items())[:1000]]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value[:1000])]
    if isinstance(value, (set, frozenset)):
        return [("{...}", part) for part in list(value)[:1000]]
    if isinstance(value, types.FunctionType):
        return _variables_of(value)
    if isinstance(value, types.MethodType):
        return [(".__self__", value.__self__)]
    try:
        value.__reduce_ex__(PROTOCOL)
    except BaseException:
        return []  # it refuses by itself, whatever its parts
    return [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]


def _variables_of(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Return what is sent with a function that is sent by its code: what it closes over, and the globals it uses."""
    found: list[tuple[str, Any]] = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found.append((f" closing over {name}", cell.cell_contents))
        except ValueError:
            pass  # nothing was assigned to it yet
    variables = function.__globals__
    names = dict.fromkeys(_global_names(function.__code__))
    return found + [(f" global variable {name}", variables[name]) for name in names if name in variables]


def _global_names(code: types.CodeType) -> Iterator[str]:
    dis = load("dis")  # here: only an error needs it
    yield from (each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def text_of(error: BaseException) -> str:
    """Return the text of an exception, whatever its `__str__` does."""
    try:
        return str(error)
    except BaseException as broken:
        return f"(its text could not be made: {repr_of(broken)})"
