"""Upload the Glue jobs to the stage's bucket: their scripts, a zip of the imported modules, and the requirements file.

python -m glue.publish --archive s3://BUCKET
"""

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from glue.archive import open_store
from glue.jobs import exit_code, report

ROOT = Path(__file__).resolve().parents[1]
JOBS = ("compact", "rebuild", "stream", "forget")
IMPORTED = (
    "contract/__init__.py",
    "contract/archive_object.py",
    "contract/event_limits.py",
    "contract/event_rules.py",
    "contract/events.py",
    "contract/geofence_event_types.py",
    "contract/instants.py",
    "contract/reasons.py",
    "contract/rejected_lines.py",
    "contract/strict_json.py",
    "consumer/__init__.py",
    "snowpipe/__init__.py",
    "snowpipe/quoting.py",
)
# The packages that the jobs need and that Glue 5.0 lacks or has in older versions. Glue has their dependencies, and
# Spark with pandas.
MODULES = ("boto3", "botocore", "duckdb", "jiter", "msgspec", "pyarrow", "s3transfer")
EPOCH = (1980, 1, 1, 0, 0, 0)


def package() -> bytes:
    """Return a zip of the jobs' modules; identical sources produce identical bytes."""
    files = [*IMPORTED, "consumer/visits.py", *(f"glue/{path.name}" for path in (ROOT / "glue").glob("*.py"))]
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), (ROOT / name).read_bytes())
    return body.getvalue()


def requirements() -> bytes:
    """Return the requirements file for Glue's `pip install -r`, which allows only wheels with the pinned hashes.

    (AWS Glue User Guide: "Using Python libraries with AWS Glue".)
    """
    pinned = re.split(r"\n(?=\S)", (ROOT / "glue" / "requirements.txt").read_text().strip())
    by_name = {block.partition("==")[0]: block for block in pinned}
    return "\n".join(["--only-binary :all:", *(by_name[name] for name in MODULES), ""]).encode()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m glue.publish", description=__doc__)
    parser.add_argument("--archive", required=True, help="s3://BUCKET")
    try:
        store = open_store(parser.parse_args(argv).archive)
    except ValueError as error:
        parser.error(str(error))
    store.write("glue/milkrun.zip", package())
    store.write("glue/requirements.txt", requirements())
    for job in JOBS:
        store.write(f"glue/{job}.py", (ROOT / "glue" / f"{job}.py").read_bytes())
    report("jobs_published", jobs=JOBS)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
