"""The program `llmc`, which is `python -m llmc_build` too: the quick way first, then the ordinary one."""

import os
import sys


def main() -> int:
    """Runs the command line and returns the exit code; where nothing was to be done, ends the process."""
    from llmc_build import quick

    code = quick.build(sys.argv[1:], os.environ)
    if code is not None:
        sys.stderr.flush()
        os._exit(code)  # nothing is open, and to take a million names apart takes time
    from llmc_build.cli import main as ordinary

    return ordinary()


if __name__ == "__main__":
    sys.exit(main())
