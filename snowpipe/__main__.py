"""The entry point of `python -m snowpipe COMMAND`."""

from cli.environment import restart_if_needed

if __name__ == "__main__":
    restart_if_needed()  # before anything else is imported

import os
import sys

from snowpipe.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
