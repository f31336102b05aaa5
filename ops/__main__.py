"""Run `milkrun` under its previous name, `python -m ops COMMAND`."""

from cli.environment import restart_if_needed

if __name__ == "__main__":
    restart_if_needed()  # before the other modules are imported

import sys

from tools.milkrun import main

if __name__ == "__main__":
    sys.exit(main())
