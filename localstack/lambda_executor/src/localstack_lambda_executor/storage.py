"""S3's objects in this LocalStack's own folder.

Its provider keeps them in one folder under /tmp, whatever it is told: two LocalStacks delete each other's buckets
there, another user of the machine cannot write to it, and it outlives them all.
"""

from pathlib import Path

from localstack.config import dirs
from localstack.runtime import hooks


@hooks.on_infra_start()
def keep_objects_here() -> None:
    from localstack.services.s3 import provider

    provider.DEFAULT_S3_TMP_DIR = str(Path(dirs.tmp) / "s3")
