"""Pickles functions, arguments, values and exceptions, and names the part that cannot be pickled.

Plain pickle is tried first, then cloudpickle, which takes 15 ms to import and so is imported on first need. Parent and
child both use this.
"""

from __future__ import annotations

import io
import pickle
import threading
import types
from collections.abc import Callable, Iterator, Mapping

from procbackground._load import load
from procbackground._wire.descriptors import MOST_DESCRIPTORS, Collector, collected_so_far, forget_since
from procbackground._wire.mainmodule import (
    MAIN_NAMES,
    belongs_to_main,
    can_refer_to,
    main_is_importable,
    main_is_whole,
)
from procbackground._wire.parcel import PARCEL_BYTES, Parcel, may_pack, pack, raw_buffers
from procbackground.errors import RemoteTraceback, SerializationError, _rebuild, set_cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 5

_FUNCTIONS_BY_REFERENCE = (types.FunctionType, types.BuiltinFunctionType, type)


def dumps(value: Any) -> bytes:
    """Pickle `value`, with cloudpickle where plain pickle cannot. Raises whatever cloudpickle raises.

    Connections and sockets are refused, except within a `descriptors.Collector`.
    """
    mark = collected_so_far()
    try:
        data = pickle.dumps(value, PROTOCOL)
    except Exception:
        forget_since(mark)
    else:
        # A reference to what the other side's `__main__` does not have would only fail there.
        if main_is_whole() or b"__main__" not in data or _has_only_known_names(value):
            return data
        forget_since(mark)
    load("procbackground._wire.byvalue")
    from procbackground._wire import byvalue

    return byvalue.dumps(value, PROTOCOL)


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
        _NameCheckingPickler(io.BytesIO(), PROTOCOL).dump(value)
    except Exception:
        return False
    finally:
        forget_since(mark)
    return True


def dump_with_descriptors(value: Any) -> bytes | Parcel:
    """Pickle `value` as `dumps` does, in a parcel if it holds connections or sockets. Raises: as `dumps`; `OSError`."""
    with Collector() as collector:
        data = dumps(value)
        count = len(collector.files)
        if count > MOST_DESCRIPTORS:
            raise pickle.PicklingError(f"it holds {count} connections or sockets; {MOST_DESCRIPTORS} can cross at once")
        return pack(data, (), collector.files) if count else data


def count_descriptors(value: Any) -> int:
    """Return how many connections and sockets `value` holds. Raises: as `dumps`."""
    with Collector() as collector:
        dumps(value)
    return len(collector.files)


def dump_payload(value: Any) -> bytes | Parcel:
    """Pickle arguments or a result; return a large pickle, or one with connections and sockets, as a parcel.

    Raises: as `dumps`.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
    except Exception:
        return dump_with_descriptors(value)
    if not buffers and len(data) < PARCEL_BYTES and main_is_whole():
        return data  # nearly always
    if not main_is_whole() and b"__main__" in data[:PARCEL_BYTES] and not _has_only_known_names(value):
        return dumps(value)
    raw = raw_buffers(buffers)
    if raw is None or len(data) + sum(view.nbytes for view in raw) < PARCEL_BYTES or not may_pack():
        return dumps(value) if buffers else data
    try:
        return pack(data, raw)
    except OSError:
        return dumps(value)  # no memory file can be made; the slower way works, too


def holds_descriptors(value: Any) -> bool:
    """Whether `value` can be pickled as an argument but not as a function, because of connections or sockets in it."""
    try:
        return count_descriptors(value) > 0
    except Exception:
        return False


def dump_function(fn: Callable[..., Any]) -> bytes:
    """Pickle the function of a task. Raises: `SerializationError`."""
    try:
        return dumps(fn)
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


# -- failures ------------------------------------------------------------------------------------------------


class Failure:
    """How a call failed, as the child reports it: plain strings and bytes, which can always be pickled.

    `kind` is "raised", with the pickled exception; or "function", "arguments", "result" or "exception": the part that
    could not be pickled or loaded.
    """

    def __init__(self, kind: str, type_name: str, text: str, traceback: str, pickled: bytes | None) -> None:
        self.kind = kind
        self.type_name = type_name
        self.text = text
        self.traceback = traceback
        self.pickled = pickled


def dump_failure(error: BaseException, kind: str = "raised", frames_to_skip: int = 1) -> bytes:
    """Pickle the failure of a call that raised `error`, without the first `frames_to_skip` frames of its traceback."""
    import traceback  # here: it would add 2 ms to a worker's start

    trace = error.__traceback__
    for _ in range(frames_to_skip):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    type_name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    try:
        shown = "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as broken:  # the user's __str__ may raise too
        shown = f"{type_name}: (no traceback: {broken!r})\n"
    pickled = _dump_exception(error) if kind == "raised" else None
    if kind == "raised" and pickled is None:
        kind = "exception"
    return pickle.dumps((kind, type_name, _text_of(error), shown, pickled), PROTOCOL)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:
        return f"(its text could not be made: {broken!r})"


class _ByParts:
    """Pickles an exception without its `__init__`, which may take other arguments than `args`."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self.error), self.error.args, dict(self.error.__dict__))


def _dump_exception(error: BaseException) -> bytes | None:
    """Pickle `error`, or return None unless the pickle can be loaded. Tried here: in the parent it is too late."""
    for form in (error, _ByParts(error)):
        try:
            data = dumps(form)
            loaded = pickle.loads(data)
        except BaseException:  # also an exit: it is not the worker's
            continue
        if type(loaded).__qualname__ == type(error).__qualname__:
            return data
    return None


def load_failure(body: bytes) -> tuple[BaseException, str]:
    """Return the exception that a call failed with, and the kind of the failure.

    The child's traceback is its `__cause__`. Runs the user's code (`__setstate__` and the like); its errors are caught.
    """
    failure = Failure(*pickle.loads(body))
    error: BaseException | None = None
    if failure.pickled is not None:
        try:
            error = pickle.loads(failure.pickled)
        except BaseException:
            failure.kind = "exception"
    if not isinstance(error, BaseException):
        error = SerializationError(_crossing_message(failure))
    set_cause(error, RemoteTraceback(failure.traceback))
    return error, failure.kind


def _crossing_message(failure: Failure) -> str:
    if failure.kind == "exception":
        return (
            f"the task raised {failure.type_name}: {failure.text}\nbut that exception cannot be pickled and "
            f"loaded again; the traceback below is the child's"
        )
    if failure.kind == "function":
        return (
            f"the function could not be loaded in the child ({failure.type_name}: {failure.text}); it must be "
            f"importable there: define it in a module, or above the `if __name__ == '__main__':` of the script"
        )
    if failure.kind == "arguments":
        return f"the arguments could not be loaded in the child ({failure.type_name}: {failure.text})"
    if failure.type_name.endswith(SerializationError.__qualname__):
        return failure.text  # from `explain_result`, which is complete
    return f"the {failure.kind} could not be pickled: {failure.text}"


# -- the part that cannot be pickled -------------------------------------------------------------------------


def explain_result(value: Any, error: BaseException) -> SerializationError:
    """Return the error that names the part of the result `value` that cannot be pickled. In a worker."""
    return _explained("result", value, error, in_worker=True)


def _explained(what: str, value: Any, error: BaseException, in_worker: bool = False) -> SerializationError:
    path, culprit = _find_culprit(value, in_worker=in_worker)
    where = f", at {path.strip()}" if path else ""
    kind = type(culprit)
    reason = _text_of(error) or type(error).__name__
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
