"""Pass LocalStack's process id to the Kinesis mock, so that the mock exits as soon as LocalStack is no longer
its parent process.

The mock cannot reliably look up this id itself. LocalStack restarts a mock that has died, and if LocalStack is killed
at that moment, the new mock already has another parent.
"""

import os

from localstack.runtime import hooks


@hooks.on_infra_start()
def name_parent_of_kinesis_mock() -> None:
    os.environ["KINESIS_MOCK_PARENT"] = str(os.getpid())
