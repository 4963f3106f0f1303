"""Messages between two processes: JSON objects over a stream socket, each after its length.

Owns framing, partial reads and writes, and nothing of what messages mean.  A channel's two ends are
used differently.  A runner calls `recv` from one thread and `send` from any; both may block.  The pool
must never block on a worker that doesn't read, so it calls `post`, which keeps what the socket does not
take, `flush` when the socket takes more, and `drain` when there is something to read.  Since the pool
always drains, a runner's `send` always ends.

A system call costs as much as a small message, so both ends can put several into one: `hold` makes a frame
that a later `post` or `send` takes along.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmc_build.model import Json

Message = dict[str, Any]

_LENGTH = struct.Struct("!I")
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = json.JSONDecoder().raw_decode
_MAX_MESSAGE = 1 << 30  # bytes; more than this is a broken peer
_CHUNK = 1 << 17  # bytes taken at a time


class ChannelClosed(Exception):
    """The other end is gone: closed, or its process died."""


class Channel:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)  # what must not block asks for that call by call
        self._sock = sock
        self._in = bytearray()  # the beginning of a message whose end is still to come
        self._whole = 0  # bytes that make it whole
        self._messages: deque[Message] = deque()
        self._out = bytearray()
        self._sending = threading.Lock()
        self._eof = False

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends connected to each other."""
        a, b = socket.socketpair()
        return cls(a), cls(b)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """The end that a parent process passed on as a file descriptor."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    # ------------------------------------------------------------ a runner's side

    def send(self, *messages: Mapping[str, Json]) -> None:
        """Sends messages together, waiting while the socket is full.  Raises ChannelClosed."""
        frames = b"".join(map(_frame, messages))
        with self._sending:
            try:
                self._sock.sendall(frames)
            except OSError as error:
                raise ChannelClosed(f"the other end is closed ({error.strerror})") from error

    def recv(self, timeout: float | None = None) -> Message | None:
        """The next message, or None when `timeout` seconds (None: no limit) passed without one.

        With timeout 0 it never blocks.  Raises ChannelClosed at the end, after the last message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._messages:
            if self._eof:
                raise ChannelClosed("the other end is closed")
            if deadline is None:
                self._read(0)
            elif not self._read(socket.MSG_DONTWAIT) and not self._eof:
                left = deadline - time.monotonic()
                if left <= 0 or not _readable(self._sock, left):
                    return None
        return self._messages.popleft()

    def take(self, timeout: float | None = None) -> list[Message]:
        """The messages that are there, having waited for one as `recv` does."""
        first = self.recv(timeout)
        if first is None:
            return []
        found = [first, *self._messages]
        self._messages.clear()
        return found

    # ------------------------------------------------------------ the pool's side

    def hold(self, message: Mapping[str, Json]) -> None:
        """Keeps a message for the next `flush`."""
        self._out += _frame(message)

    def post(self, message: Mapping[str, Json]) -> None:
        """Sends what the socket takes now and keeps the rest for `flush`.  Raises ChannelClosed."""
        self._out += _frame(message)
        self.flush()

    def flush(self) -> None:
        """Sends more of what `hold` and `post` kept.  Raises ChannelClosed."""
        while self._out:
            try:
                sent = self._sock.send(self._out, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise ChannelClosed(f"the other end is closed ({error.strerror})") from error
            del self._out[:sent]

    @property
    def unsent(self) -> bool:
        """Whether `flush` has something to send when the socket becomes writable."""
        return bool(self._out)

    def drain(self) -> list[Message]:
        """Messages that have arrived, of a socket that can be read.  Raises ChannelClosed at the end.

        What more there is, is told by the socket, which still can be read.
        """
        if not self._eof:
            self._read(socket.MSG_DONTWAIT)
        found = list(self._messages)
        self._messages.clear()
        if self._eof and not found:
            raise ChannelClosed("the other end is closed")
        return found

    # ------------------------------------------------------------ the socket

    def _read(self, flags: int) -> bool:
        """Takes in what is there; False where nothing more can be had now."""
        try:
            data = self._sock.recv(_CHUNK, flags)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._eof = True
            return False
        if self._in:
            self._in += data
            if len(self._in) < self._whole:
                return True
            data = bytes(self._in)
        at = self._split(data)
        self._in = bytearray(data[at:])
        return True

    def _split(self, data: bytes) -> int:
        """Takes whole messages from the beginning of `data`; where the first one begins that isn't whole."""
        at, have, self._whole = 0, len(data), _LENGTH.size
        while have - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(data, at)
            if size > _MAX_MESSAGE:
                raise ChannelClosed(f"a message of {size} bytes: the other end is broken")
            end = at + _LENGTH.size + size
            if have < end:
                self._whole = end - at
                break
            try:
                message, _ = _decode(str(data[at + _LENGTH.size : end], "ascii"))
            except ValueError as error:
                raise ChannelClosed("a message that is no JSON: the other end is broken") from error
            if not isinstance(message, dict):
                raise ChannelClosed("a message that is no object: the other end is broken")
            self._messages.append(message)
            at = end
        return at


def _frame(message: Mapping[str, Json]) -> bytes:
    # ASCII escapes carry lone surrogates, which file names that aren't UTF-8 consist of.
    body = _encode(message).encode("ascii")
    if len(body) > _MAX_MESSAGE:
        raise ValueError(f"a message of {len(body)} bytes is over the limit of {_MAX_MESSAGE}")
    return _LENGTH.pack(len(body)) + body


def _readable(sock: socket.socket, timeout_s: float) -> bool:
    """Waits until the socket can be read; False when the time is over."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
