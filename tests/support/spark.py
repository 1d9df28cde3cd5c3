"""A real Apache Spark, started by the tests themselves: a driver with Spark Connect, and two executors beside it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

DEADLINE_SECONDS = 180
CLUSTER = "local-cluster[2,1,1024]"
"""Two executors, each a process of its own with one core and 1,024 MiB."""
BRIEF = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Java for minutes, not days: it is ready sooner than its best code would be."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def serve() -> Iterator[str]:
    """Yields the URL of a Spark Connect server on a free port, with its tables in a temporary folder."""
    try:
        import pyspark
    except ImportError:
        pytest.skip("no Spark: pyspark is not installed (make test installs it)")
    home = Path(pyspark.__file__).parent
    if not (home / "jars").is_dir():
        pytest.skip("no Spark: what is installed is its client alone (pip install pyspark)")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("no Spark: the system has no Java (Debian: apt-get install openjdk-17-jre-headless)")
    folder = Path(tempfile.mkdtemp(prefix="audience-sync-spark-"))
    port = _free_port()
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": BRIEF,
        "spark.executor.extraJavaOptions": BRIEF,
        "spark.ui.enabled": "false",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": f"{folder}/warehouse",
        "spark.sql.session.timeZone": "America/New_York",  # nothing may depend on the server's zone
        "spark.sql.shuffle.partitions": "2",
    }
    command = [home / "bin" / "spark-submit", "--master", CLUSTER]
    command += [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
    env = os.environ | {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": f"{folder}/local",
        "SPARK_WORKER_DIR": f"{folder}/work",
        "PYSPARK_PYTHON": sys.executable,
    }
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not _answers(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError((folder / "log").read_text()[-4000:])
            time.sleep(0.2)
        yield f"spark://127.0.0.1:{port}/default"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its executors are of its group
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def store(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as a Parquet table in two files, in place of one of that name, which only this session has looked at:
    a session remembers the files of the tables that it has read."""
    types = connection.dialect.type_compiler_instance
    schema = ", ".join(f"`{column.name}` {types.process(column.type)}" for column in table.columns)
    session = connection.connection.driver_connection.session  # type: ignore[union-attr]
    frame = session.createDataFrame([tuple(row[c.name] for c in table.columns) for row in rows], schema)
    frame.repartition(2).write.mode("overwrite").format("parquet").saveAsTable(table.name)
