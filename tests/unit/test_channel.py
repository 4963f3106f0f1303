"""Messages over a socket: framing, ends of connections, both ways of sending."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from llmc_build.execute.channel import Channel, ChannelClosed


def test_a_message_arrives_as_it_was_sent() -> None:
    a, b = Channel.pair()
    message = {"op": "run", "id": 7, "text": "ä\udcff\n\0😀", "list": [None, True, 1.5, {}]}
    a.send(message)
    assert b.recv(1) == message


def test_lone_surrogates_survive_because_file_names_hold_them() -> None:
    a, b = Channel.pair()
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    a.send({"name": name})
    received = b.recv(1)
    assert received is not None
    assert received["name"].encode("utf-8", "surrogateescape") == b"caf\xe9"


def test_messages_arrive_in_order_however_the_bytes_are_cut() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    frames = b""
    for number in range(3):
        body = b'{"n":%d}' % number
        frames += struct.pack("!I", len(body)) + body
    for byte in frames:
        ours.send(bytes([byte]))
    assert [channel.recv(30) for _ in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_waiting_ends_when_the_time_is_over() -> None:
    a, b = Channel.pair()
    started = time.monotonic()
    assert b.recv(0.05) is None
    assert 0.04 < time.monotonic() - started < 30
    assert b.recv(0) is None
    a.close()


def test_the_end_is_told_after_the_last_message() -> None:
    a, b = Channel.pair()
    a.send({"last": True})
    a.close()
    assert b.recv(30) == {"last": True}
    with pytest.raises(ChannelClosed):
        b.recv(1)


def test_draining_tells_the_end_after_the_last_message_too() -> None:
    a, b = Channel.pair()
    a.send({"last": True})
    a.close()
    assert b.drain() == [{"last": True}]
    with pytest.raises(ChannelClosed):
        b.drain()


def test_a_message_cut_off_by_death_is_no_message() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    ours.send(struct.pack("!I", 100) + b'{"half":')
    ours.close()
    with pytest.raises(ChannelClosed):
        channel.recv(1)


def test_posting_to_a_peer_that_does_not_read_never_blocks() -> None:
    """The pool must go on serving others while one worker is deep in native code."""
    a, b = Channel.pair()
    text = "x" * 1_000_000
    for _ in range(8):
        a.post({"text": text})
    assert a.unsent
    received = 0
    while received < 8:
        found = b.drain()
        received += len(found)
        assert all(message == {"text": text} for message in found)
        a.flush()
    assert not a.unsent


def test_sending_waits_for_a_slow_reader_and_threads_do_not_mix_messages() -> None:
    a, b = Channel.pair()
    texts = [letter * 600_000 for letter in "abcd"]
    threads = [threading.Thread(target=a.send, args=({"text": text},)) for text in texts]
    for thread in threads:
        thread.start()
    found = []
    for _ in texts:
        message = b.recv(10)
        assert message is not None
        found.append(message["text"])
    for thread in threads:
        thread.join(10)
    assert sorted(found) == texts


def test_sending_to_a_dead_peer_says_so() -> None:
    a, b = Channel.pair()
    b.close()
    with pytest.raises(ChannelClosed):
        a.send({"op": "run"})


def test_a_length_that_cannot_be_is_a_broken_peer() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    ours.send(b"\xff\xff\xff\xff")
    with pytest.raises(ChannelClosed):
        channel.recv(1)
