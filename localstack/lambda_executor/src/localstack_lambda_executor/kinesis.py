"""Pass LocalStack's process id to its Kinesis mock, so that the mock exits when its parent is another
process.

LocalStack starts the mock again when it dies. If LocalStack is killed at that moment, the new mock already
has another parent when it looks up its parent.
"""

import os

from localstack.runtime import hooks


@hooks.on_infra_start()
def name_parent_of_kinesis_mock() -> None:
    os.environ["KINESIS_MOCK_PARENT"] = str(os.getpid())
