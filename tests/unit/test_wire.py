"""Frames come out whole and the same however a pipe cuts them into reads."""

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbackground._wire.frames import (
    CALL_HEAD,
    HEADER,
    HEADER_SIZE,
    HELLO,
    READ_SIZE,
    VALUE,
    FrameReader,
    frame,
    write_all,
)

Frame = tuple[int, int, bytes]

kinds = st.integers(0, 255)
sequences = st.integers(0, 2**64 - 1)
small_bodies = st.binary(max_size=40)
# Around the size where a reader stops joining and collects parts instead.
large_bodies = st.integers(READ_SIZE - 30, 3 * READ_SIZE).map(bytes)
frames = st.lists(st.tuples(kinds, sequences, st.one_of(small_bodies, small_bodies, large_bodies)), max_size=8)


def stream_of(sent: list[Frame]) -> bytes:
    return b"".join(frame(kind, sequence, body) for kind, sequence, body in sent)


def read_in(reader: FrameReader, data: bytes, cuts: list[int]) -> list[Frame]:
    came: list[Frame] = []
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if start < end:  # an empty read is the end of a pipe, and never fed
            came += reader.feed(data[start:end])
    return came


@given(sent=frames, draw=st.data())
def test_any_cutting_gives_the_same_frames(sent: list[Frame], draw: st.DataObject):
    data = stream_of(sent)
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=20))
    assert read_in(FrameReader(), data, cuts) == sent


@given(sent=st.lists(st.tuples(kinds, sequences, small_bodies), max_size=6))
def test_byte_by_byte_gives_the_same_frames(sent: list[Frame]):
    data = stream_of(sent)
    assert read_in(FrameReader(), data, list(range(len(data)))) == sent


@given(sent=frames, more=frames, size=st.integers(1, 2 * READ_SIZE))
def test_reads_of_one_size_give_the_same_frames_and_leave_the_reader_clean(
    sent: list[Frame], more: list[Frame], size: int
):
    size = max(size, (len(stream_of(sent)) + len(stream_of(more))) // 500)  # keeps the example fast
    reader = FrameReader()
    for part in (sent, more):
        data = stream_of(part)
        assert read_in(reader, data, list(range(size, len(data), size))) == part


@given(sent=frames, lost=st.integers(1, 60))
def test_torn_frame_at_the_end_is_kept_back_and_the_whole_ones_come(sent: list[Frame], lost: int):
    torn = frame(VALUE, 7, b"x" * 60)[:-lost]
    assert FrameReader().feed(stream_of(sent) + torn) == sent


@pytest.mark.parametrize("length", [READ_SIZE - 1, READ_SIZE, READ_SIZE + 1, 2 * READ_SIZE, 1 << 20])
@pytest.mark.parametrize("cut", [1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 1, READ_SIZE, -1])
def test_large_frame_between_small_ones_survives_each_cut(length: int, cut: int):
    sent = [(HELLO, 0, b""), (VALUE, 1, b"y" * length), (VALUE, 2, b"z")]
    data = stream_of(sent)
    start = HEADER_SIZE + cut if cut > 0 else len(data) - HEADER_SIZE - 1 + cut
    assert read_in(FrameReader(), data, [HEADER_SIZE, start]) == sent


def test_end_of_a_large_frame_may_bring_the_begin_of_the_next_large_one():
    sent = [(VALUE, number, bytes([number]) * (READ_SIZE + 100)) for number in range(4)]
    data = stream_of(sent)
    assert read_in(FrameReader(), data, list(range(READ_SIZE, len(data), READ_SIZE))) == sent


def test_header_takes_the_largest_numbers_and_begins_a_call_head():
    assert FrameReader().feed(frame(255, 2**64 - 1)) == [(255, 2**64 - 1, b"")]
    head = CALL_HEAD.pack(10, 3, 1, 0, 1, 0)
    assert HEADER.unpack_from(head) == (10, 3, 1)


def test_write_all_goes_on_where_a_write_was_cut_short(monkeypatch: pytest.MonkeyPatch):
    written: list[bytes] = []

    def write_some(fd: int, data: bytes) -> int:
        written.append(bytes(data[:3]))
        return len(written[-1])

    monkeypatch.setattr(os, "write", write_some)
    write_all(0, b"0123456789")
    assert b"".join(written) == b"0123456789"
