"""`python -m llmc_build`."""

import sys

from llmc_build.cli import main

if __name__ == "__main__":
    sys.exit(main())
