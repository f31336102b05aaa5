"""Keep S3 objects in LocalStack's own folder.

LocalStack's S3 provider keeps them in one folder under /tmp, regardless of its settings. There, two LocalStacks delete
each other's buckets, a second user of the machine cannot write, and the objects are left behind.
"""

from pathlib import Path

from localstack.config import dirs
from localstack.runtime import hooks


@hooks.on_infra_start()
def keep_objects_here() -> None:
    from localstack.services.s3 import provider

    provider.DEFAULT_S3_TMP_DIR = str(Path(dirs.tmp) / "s3")
