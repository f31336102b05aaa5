"""Run a command of the local stack: `python -m tools.stack up`, for example. The environment variables
MILKRUN_LOCAL and MILKRUN_PORT select the stack.
"""

from cli.environment import restart_if_needed

if __name__ == "__main__":
    restart_if_needed()  # before anything else is imported

import os
import sys

from tools.stack.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
