"""A pipe that ends a sleep: from a signal handler, from another thread, or at any signal.

Owns the pipe and the process's wake-up descriptor (`signal.set_wakeup_fd`), where nobody else uses that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading


class Wakeup:
    """`fileno()` can be read once it has been rung, until `drain` is called."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may arrive in the thread that holds it
        self._open = True
        self._read, self._write = os.pipe()
        for fd in (self._read, self._write):
            os.set_blocking(fd, False)
        self.by_signals = self._take()  # whether every signal rings

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        """May also come too late: once this is closed, the number of its pipe may be that of a file."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._open:
                os.write(self._write, b"\0")

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        if self.by_signals and threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        with self._lock:
            self._open = False
            os.close(self._read)
            os.close(self._write)

    def _take(self) -> bool:
        """Lets signals ring; False where the program that uses this library needs them itself."""
        if threading.current_thread() is not threading.main_thread():
            return False
        before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
        return before == -1
