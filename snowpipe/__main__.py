import os
import sys

from snowpipe.cli import main

sys.exit(main(sys.argv[1:], os.environ))
