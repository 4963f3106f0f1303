"""Messages between two processes: JSON objects over a stream socket, each after its length.

Owns framing, partial reads and writes, and nothing of what messages mean.  A channel's two ends are
used differently.  A runner calls `recv` from one thread and `send` from any; both may block.  The pool
must never block on a worker that doesn't read, so it calls `post`, which keeps what the socket does not
take, `flush` when the socket takes more, and `drain` when there is something to read.  Since the pool
always drains, a runner's `send` always ends.
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
from typing import Any

from llmc_build.model import Json

Message = dict[str, Any]

_LENGTH = struct.Struct("!I")
_MAX_MESSAGE = 1 << 30  # bytes; more than this is a broken peer
_CHUNK = 1 << 18


class ChannelClosed(Exception):
    """The other end is gone: closed, or its process died."""


class Channel:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._in = bytearray()
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

    def send(self, message: Mapping[str, Json]) -> None:
        """Sends one message, waiting while the socket is full.  Raises ChannelClosed."""
        frame = memoryview(_frame(message))
        with self._sending:
            while frame:
                sent = self._write(frame)
                frame = frame[sent:]
                if frame:
                    _ready(self._sock, select.POLLOUT, None)

    def recv(self, timeout: float | None = None) -> Message | None:
        """The next message, or None when `timeout` seconds (None: no limit) passed without one.

        With timeout 0 it never blocks.  Raises ChannelClosed at the end, after the last message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._messages:
            if self._eof:
                raise ChannelClosed("the other end is closed")
            if self._read():
                continue
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not _ready(self._sock, select.POLLIN, left):
                return None
        return self._messages.popleft()

    # ------------------------------------------------------------ the pool's side

    def post(self, message: Mapping[str, Json]) -> None:
        """Sends what the socket takes now and keeps the rest for `flush`.  Raises ChannelClosed."""
        self._out += _frame(message)
        self.flush()

    def flush(self) -> None:
        """Sends more of what `post` kept.  Raises ChannelClosed."""
        while self._out:
            sent = self._write(self._out)
            if not sent:
                return
            del self._out[:sent]

    @property
    def unsent(self) -> bool:
        """Whether `flush` has something to send when the socket becomes writable."""
        return bool(self._out)

    def drain(self) -> list[Message]:
        """Every message that has arrived.  Raises ChannelClosed when the end was reached before."""
        if self._eof and not self._messages:
            raise ChannelClosed("the other end is closed")
        while self._read():
            pass
        found = list(self._messages)
        self._messages.clear()
        if self._eof and not found:
            raise ChannelClosed("the other end is closed")
        return found

    # ------------------------------------------------------------ the socket

    def _read(self) -> bool:
        """Takes in what is there; False where nothing more can be had now."""
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._eof = True
            return False
        self._in += data
        self._split()
        return True

    def _split(self) -> None:
        at = 0
        while len(self._in) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._in, at)
            if size > _MAX_MESSAGE:
                raise ChannelClosed(f"a message of {size} bytes: the other end is broken")
            end = at + _LENGTH.size + size
            if len(self._in) < end:
                break
            message = json.loads(self._in[at + _LENGTH.size : end])
            if not isinstance(message, dict):
                raise ChannelClosed("a message that is no object: the other end is broken")
            self._messages.append(message)
            at = end
        if at:
            del self._in[:at]

    def _write(self, data: memoryview | bytearray) -> int:
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise ChannelClosed(f"the other end is closed ({error.strerror})") from error


def _frame(message: Mapping[str, Json]) -> bytes:
    # ASCII escapes carry lone surrogates, which file names that aren't UTF-8 consist of.
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(body) > _MAX_MESSAGE:
        raise ValueError(f"a message of {len(body)} bytes is over the limit of {_MAX_MESSAGE}")
    return _LENGTH.pack(len(body)) + body


def _ready(sock: socket.socket, event: int, timeout_s: float | None) -> bool:
    """Waits until the socket can be read or written; False when the time is over."""
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
