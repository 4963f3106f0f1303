"""The program `llmc`, which is `python -m llmc_build` too: the quick way first, then the ordinary one."""

import os
import sys
from contextlib import suppress


def main() -> int:
    """Runs the command line and ends the process: to take a million names apart first would take time."""
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
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it any more
            stream.flush()
    os._exit(code)  # nothing else is open


if __name__ == "__main__":
    main()
