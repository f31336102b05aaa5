"""Create the Spark session, locally or on Glue."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def session(name: str, master: str | None, ui: bool = False) -> Iterator[SparkSession]:
    """Yield Glue's own session if `master` is None, otherwise a new session on this master, such as local[2]."""
    builder = SparkSession.builder.appName(name).config("spark.sql.session.timeZone", "UTC")
    if master:
        # Spark's Python workers must use this environment's interpreter and be able to import Milkrun's packages.
        os.environ["PYSPARK_PYTHON"] = sys.executable
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        cores = master.removeprefix("local[").removesuffix("]").partition(",")[0]
        builder = (
            builder.master(master)
            .config("spark.ui.enabled", str(ui).lower())
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.sql.shuffle.partitions", cores if cores.isdigit() else "8")
            .config("spark.driver.memory", "2g")
        )
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()
