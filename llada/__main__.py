"""``python -m llada COMMAND ...``, for launchers that start modules, such as ``torchrun -m llada fit``."""

import sys

from llada.cli import main

if __name__ == "__main__":
    sys.exit(main())
