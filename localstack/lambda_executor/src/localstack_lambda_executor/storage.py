"""Keep S3 objects in LocalStack's own folder.

By default, LocalStack's S3 provider stores the objects of every LocalStack instance in the same folder under /tmp,
regardless of the settings. There, two instances delete each other's buckets, another user of the machine cannot
write, and the objects remain after LocalStack has stopped.
"""

from pathlib import Path

from localstack.config import dirs
from localstack.runtime import hooks


@hooks.on_infra_start()
def keep_objects_here() -> None:
    from localstack.services.s3 import provider

    provider.DEFAULT_S3_TMP_DIR = str(Path(dirs.tmp) / "s3")
