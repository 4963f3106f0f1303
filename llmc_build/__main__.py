"""The program `llmc`, which is `python -m llmc_build` too: the quick way first, then the ordinary one."""

import io
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Runs the command line and ends the process: to take a million names apart first would take time."""
    for number in _HEARD:  # until a build has something to end in order
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:  # else: nohup
            signal.signal(number, _ended)
    _write_whole()
    try:
        code = _run()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it any more
                stream.flush()
    except KeyboardInterrupt as end:
        code = int(getattr(end, "exit_code", 128 + signal.SIGINT))
    os._exit(code)  # nothing else is open


def _write_whole() -> None:
    """Nothing that is printed is lost, and what standard output can't hold is spelt out as on standard error.

    With `PYTHONUNBUFFERED` set, as in many containers, Python loses what one call of `write` leaves over:
    the rest after a signal, or on a disk that is getting full, where the next call would say so.
    """
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), sys.stdout.encoding, line_buffering=raw.isatty()
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _run() -> int:
    code = None
    with suppress(OSError, ImportError, MemoryError):  # what keeps the quick way from starting
        from llmc_build import quick

        code = quick.build(sys.argv[1:], os.environ)
    if code is None:
        try:
            from llmc_build.cli import main as ordinary
        except (OSError, ImportError, MemoryError) as error:
            sys.stderr.write(f"error: llmc can't be loaded: {error}\n")
            os._exit(8)
        code = ordinary()
    return code


class _Ended(KeyboardInterrupt):
    """A signal that nobody else hears."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted")
        self.exit_code = 128 + number


def _ended(number: int, frame: FrameType | None) -> None:
    """Unwinds, so that what is half done is put away; the second time at once."""

    def at_once(other: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    for heard in _HEARD:
        signal.signal(heard, at_once)
    raise _Ended(number)


if __name__ == "__main__":
    main()
