"""A real MariaDB or MySQL, started by the tests themselves where the system has one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

DEADLINE_SECONDS = 60


def serve() -> Iterator[str]:
    """Yields the URL of a server on a free port in a temporary folder, with the rights to make databases."""
    server, install = shutil.which("mariadbd"), shutil.which("mariadb-install-db")
    if server is None or install is None:
        pytest.skip("no MariaDB: the system has no mariadbd (Debian: apt-get install mariadb-server-core)")
    folder = Path(tempfile.mkdtemp(prefix="audience-sync-mariadb-"))
    user = ["--user=root"] if os.geteuid() == 0 else []
    data = folder / "data"
    subprocess.run(
        [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", *user],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=DEADLINE_SECONDS,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [
        "--no-defaults",
        f"--datadir={data}",
        f"--socket={folder}/socket",
        f"--pid-file={folder}/pid",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=64M",
        "--default-time-zone=-05:00",  # nothing may depend on the server's zone
        *user,
    ]
    log = (folder / "log").open("wb")
    process = subprocess.Popen([server, *settings], stdout=log, stderr=log, cwd=folder)
    url = f"mysql+pymysql://root@127.0.0.1:{port}/mysql"
    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                engine.connect().close()
                break
            except sa.exc.OperationalError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError((folder / "log").read_text()) from None
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
