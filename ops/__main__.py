"""The earlier spelling of `milkrun`: `python -m ops COMMAND`."""

import sys

from tools.milkrun import main

if __name__ == "__main__":
    sys.exit(main())
