"""However a pipe cuts the stream of frames into reads, the same frames come out; stray bytes never become a frame."""

import itertools
import os
import socket
import struct
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from procbackground._state.job import Job, KeyedJob, Recipe
from procbackground._supervisor.workers import call_frame as request_of
from procbackground._wire.frames import (
    BROKEN,
    CALL,
    CALL_HEAD,
    CALL_HEAD_SIZE,
    COST,
    FAILURE,
    GO_ON,
    HAS_SAVED,
    HEADER,
    HEADER_SIZE,
    HELLO,
    LEAVING,
    LOG_RECORD,
    LOOP,
    MARK,
    MEASURED,
    NOTHING,
    PARCEL_VALUE,
    PARTIAL,
    PROGRESS,
    READ_SIZE,
    RELEASE,
    SKIPPED,
    VALUE,
    FrameReader,
    ProtocolError,
    arguments_at,
    call_frame,
    call_rest,
    frame,
    pack_name,
    unpack_name,
    write_all,
)
from procbackground._wire.parcel import receive_pipes, send_pipes

Frame = tuple[int, int, bytes]

LARGEST = 2**64 - 1
small_bodies = st.binary(max_size=40)
# Around the size where a reader stops joining and collects parts instead.
large_bodies = st.integers(READ_SIZE - 30, 3 * READ_SIZE).map(bytes)
bodies = st.one_of(small_bodies, small_bodies, large_bodies)


@st.composite
def streams(draw: st.DrawFn, bodies: st.SearchStrategy[bytes] = bodies, max_size: int = 8) -> list[Frame]:
    """Draw frames as a worker or its parent may send them."""
    sent: list[Frame] = []
    number = 0
    for _ in range(draw(st.integers(0, max_size))):
        kind = draw(st.sampled_from([NOTHING, VALUE, VALUE, FAILURE, SKIPPED, CALL, HELLO, LOG_RECORD, PROGRESS]))
        if kind <= LOOP:
            number = draw(st.integers(number + 1, number + 3) | st.integers(number + 1, max(number + 1, 2**63)))
        about = 0 if kind == HELLO else number
        sent.append((kind, about, b"" if kind in (NOTHING, SKIPPED, HELLO) else draw(bodies)))
    return sent


def stream_of(sent: list[Frame]) -> bytes:
    return b"".join(frame(kind, sequence, body) for kind, sequence, body in sent)


def read_in(reader: FrameReader, data: bytes, cuts: list[int]) -> list[Frame]:
    came: list[Frame] = []
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if start < end:  # an empty read is the end of a pipe, and never fed
            came += reader.feed(data[start:end])
    return came


@given(sent=streams(), draw=st.data())
def test_any_cutting_gives_the_same_frames(sent: list[Frame], draw: st.DataObject):
    data = stream_of(sent)
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=20))
    reader = FrameReader()
    assert (read_in(reader, data, cuts), reader.error) == (sent, None)


@given(sent=streams(small_bodies, max_size=6))
def test_byte_by_byte_gives_the_same_frames(sent: list[Frame]):
    data = stream_of(sent)
    reader = FrameReader()
    assert (read_in(reader, data, list(range(len(data)))), reader.error) == (sent, None)


@given(sent=streams(max_size=16), size=st.integers(1, 2 * READ_SIZE), half=st.integers(0, 16))
def test_reads_of_one_size_give_the_same_frames_and_leave_the_reader_clean(sent: list[Frame], size: int, half: int):
    size = max(size, len(stream_of(sent)) // 500)  # keeps the example fast
    reader = FrameReader()
    for part in (sent[:half], sent[half:]):
        data = stream_of(part)
        assert read_in(reader, data, list(range(size, len(data), size))) == part


@given(sent=streams(), lost=st.integers(1, 60))
def test_torn_frame_at_the_end_is_kept_back_and_the_whole_ones_come(sent: list[Frame], lost: int):
    torn = frame(VALUE, LARGEST, b"x" * 60)[:-lost]
    reader = FrameReader()
    assert (reader.feed(stream_of(sent) + torn), reader.error) == (sent, None)


@pytest.mark.parametrize("length", [READ_SIZE - 1, READ_SIZE, READ_SIZE + 1, 2 * READ_SIZE, 1 << 20])
@pytest.mark.parametrize("cut", [1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 1, READ_SIZE, -1])
def test_large_frame_between_small_ones_survives_each_cut(length: int, cut: int):
    sent = [(HELLO, 0, b""), (VALUE, 1, b"y" * length), (VALUE, 2, b"z")]
    data = stream_of(sent)
    start = HEADER_SIZE + cut if cut > 0 else len(data) - HEADER_SIZE - 1 + cut
    assert read_in(FrameReader(), data, [HEADER_SIZE, start]) == sent


def test_end_of_a_large_frame_may_bring_the_begin_of_the_next_large_one():
    sent = [(VALUE, number, bytes([number]) * (READ_SIZE + 100)) for number in range(1, 5)]
    data = stream_of(sent)
    assert read_in(FrameReader(), data, list(range(READ_SIZE, len(data), READ_SIZE))) == sent


@pytest.mark.parametrize("length", [2**32 - 1, 2**32, 2**40])
def test_body_of_4_gib_and_more_is_waited_for(length: int):
    reader = FrameReader()
    assert reader.feed(frame(HELLO, 0) + HEADER.pack(MARK + VALUE, length, 1) + b"begin") == [(HELLO, 0, b"")]
    assert reader.feed(b"more") == []
    assert reader.error is None


def test_request_has_its_parts_where_the_worker_reads_them():
    rest = call_rest(3, 70_000, b"function")
    for kind in (CALL, LOOP):
        ((came, sequence, body),) = FrameReader().feed(call_frame(LARGEST, rest, b"arguments", kind))
        assert (came, sequence, body[CALL_HEAD_SIZE:]) == (kind, LARGEST, b"functionarguments")
        assert CALL_HEAD.unpack_from(body) == (3, 65535, len(b"function"))


# -- stray bytes ---------------------------------------------------------------------------------------------

SOME_FRAMES = [(HELLO, 0, b""), (VALUE, 1, b"one"), (VALUE, 2, b"y" * (READ_SIZE + 9)), (NOTHING, 3, b"")]
GARBAGE = [
    bytes(13),
    b"a line of text\n",
    "Füße, 東京, 🐍 and more, as UTF-8\n".encode(),
    "as UTF-16".encode("utf-16"),
    b"\n",
    bytes([VALUE]),
    b"\xff" * 100,
    struct.pack("<IQB", 3, 1, VALUE) + b"abc",
    MARK.to_bytes(4, "little") + bytes(30),
    bytes(READ_SIZE * 2),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:8]))
@pytest.mark.parametrize("place", range(len(SOME_FRAMES) + 1))
@pytest.mark.parametrize("size", [1, 7, HEADER_SIZE, READ_SIZE, 1 << 30])
def test_frames_before_garbage_come_and_none_after_it(garbage: bytes, place: int, size: int):
    before, after = stream_of(SOME_FRAMES[:place]), stream_of([*SOME_FRAMES[place:], (VALUE, 9, b"last")])
    data = before + garbage + after
    size = max(size, len(data) // 3000)  # keeps the test fast
    reader = FrameReader()
    assert read_in(reader, data, list(range(size, len(data), size))) == SOME_FRAMES[:place]
    assert isinstance(reader.error, ProtocolError)
    assert reader.error.data.startswith(garbage[:3])
    assert reader.feed(frame(VALUE, 10, b"later")) == []


@given(
    sent=streams(max_size=5),
    place=st.integers(0, 5),
    stray=st.binary(min_size=1, max_size=80) | st.text(min_size=1).map(lambda text: text.encode("utf-8", "replace")),
    draw=st.data(),
)
@example(sent=[], place=0, stray=bytes(13), draw=None)
def test_stray_bytes_never_become_a_frame(sent: list[Frame], place: int, stray: bytes, draw: st.DataObject | None):
    before = stream_of(sent[:place])
    data = before + stray + stream_of([*sent[place:], (VALUE, LARGEST, b"end")])
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=6)) if draw is not None else []
    reader = FrameReader()
    came = read_in(reader, data, cuts)
    assert came == sent[:place]
    assert reader.error is not None


@given(stray=st.binary(min_size=2, max_size=READ_SIZE).filter(lambda stray: stray[1] != frame(VALUE, 1)[1]))
def test_garbage_is_reported_before_another_frame_comes(stray: bytes):
    reader = FrameReader()
    assert reader.feed(frame(VALUE, 1) + stray) == [(VALUE, 1, b"")]
    assert reader.error is not None


def test_error_shows_the_garbage_and_its_reason_in_a_line():
    reader = FrameReader()
    reader.feed(b"print('hello')\n" * 20)
    shown = str(reader.error)
    assert shown.startswith("not a frame: b\"print('hello')\\n")
    assert len(shown) < 200
    assert "\n" not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        HEADER.pack(MARK + RELEASE + 1, 0, 0),
        HEADER.pack(MARK - 1, 0, 1),
        HEADER.pack(MARK + 255, 0, 1),
        frame(NOTHING, 3, b"body"),
        frame(SKIPPED, 3, b"body"),
        frame(HELLO, 0, b"body"),
        frame(LEAVING, 0, b"body"),
        frame(GO_ON, 0, b"body"),
        frame(MEASURED, 0, bytes(COST.size + 1)),
        HEADER.pack(MARK + VALUE, 2**60, 3),
        HEADER.pack(MARK + PARTIAL, 2**60, 3),
    ],
)
def test_unknown_kinds_and_implausible_lengths_are_errors(wrong: bytes):
    reader = FrameReader()
    assert reader.feed(frame(VALUE, 2, b"right") + wrong) == [(VALUE, 2, b"right")]
    assert reader.error is not None


@pytest.mark.parametrize("kind", [NOTHING, VALUE, PARCEL_VALUE, FAILURE, SKIPPED, CALL, LOOP])
@pytest.mark.parametrize(("before", "number"), [(0, 0), (2, 0), (2, 1), (LARGEST, 5)])
def test_number_of_an_answer_is_never_0_and_never_falls(kind: int, before: int, number: int):
    reader = FrameReader()
    sent = [(VALUE, before, b"")] if before else []
    assert reader.feed(stream_of([*sent, (kind, number, b"")])) == sent
    assert reader.error is not None


def test_number_of_a_message_may_be_of_an_earlier_request():
    sent = [(VALUE, 7, b"seven"), (PROGRESS, 3, b"of a thread that outlived its task"), (PARTIAL, 8, b"part")]
    reader = FrameReader()
    assert (reader.feed(stream_of(sent)), reader.error) == (sent, None)


@pytest.mark.parametrize("kind", [HELLO, BROKEN, GO_ON])
def test_message_about_no_request_has_no_number(kind: int):
    reader = FrameReader()
    assert reader.feed(frame(kind, 1)) == []
    assert reader.error is not None


def test_write_all_goes_on_where_a_write_was_cut_short(monkeypatch: pytest.MonkeyPatch):
    written: list[bytes] = []

    def write_some(fd: int, data: bytes) -> int:
        written.append(bytes(data[:3]))
        return len(written[-1])

    monkeypatch.setattr(os, "write", write_some)
    write_all(0, b"0123456789")
    assert b"".join(written) == b"0123456789"


# -- names ---------------------------------------------------------------------------------------------------

any_names = st.text(st.characters(exclude_categories=()))  # lone surrogates, too


@given(name=any_names, rest=st.binary())
@example(name="\udc80 of a file", rest=b"")
@example(name="\ud83d\udc0d", rest=b"\0")
def test_any_name_survives_with_what_follows_it(name: str, rest: bytes):
    blob = pack_name(name) + rest
    came, end = unpack_name(blob)
    assert (came, blob[end:]) == (name, rest)


@pytest.mark.parametrize("name", ["x" * 65536, "ü" * 40_000, "x" * 65534 + "東", "x" * (1 << 20)])
def test_long_names_are_not_cut(name: str):
    assert unpack_name(pack_name(name)) == (name, len(pack_name(name)))


# -- descriptors ---------------------------------------------------------------------------------------------


def test_descriptors_of_a_frame_that_was_never_sent_are_no_other_frames():
    ours, theirs = socket.socketpair()
    pipes = [os.pipe() for _ in range(3)]
    try:
        for sequence, (reader, _) in zip((1, 2, 3), pipes, strict=True):
            send_pipes(theirs.fileno(), sequence, [reader])
        (received,) = receive_pipes(ours.fileno(), 3, 1)  # 1 and 2 were interrupted before their frames
        os.write(pipes[2][1], b"three")
        assert os.read(received, 10) == b"three"
        assert not os.get_blocking(received)
        os.close(received)
        send_pipes(theirs.fileno(), 4, [pipes[0][0]])
        with pytest.raises(EOFError):
            receive_pipes(ours.fileno(), 4, 2)
    finally:
        for fd in (fd for pair in pipes for fd in pair):
            os.close(fd)
        ours.close()
        theirs.close()


@pytest.mark.parametrize("is_loop", [False, True])
@pytest.mark.parametrize("saved", [None, b"", b"a state"])
@pytest.mark.parametrize("key", [None, "a key"])
def test_the_arguments_of_a_request_are_found_without_running_it(is_loop, saved, key):
    recipe = Recipe("task", pack_name("task") + b"the function", is_loop=is_loop)
    job = Job(None, recipe, b"the arguments") if key is None else KeyedJob(
        None, recipe, b"the arguments", 0, SimpleNamespace(key=key)
    )  # fmt: skip
    if saved is not None:
        job.with_history().checkpoint = saved
        job.flags |= HAS_SAVED
    body = request_of(job)[HEADER_SIZE:]
    assert body[arguments_at(LOOP if is_loop else CALL, body) :] == b"the arguments"
