"""A real PostgreSQL server for tests and benchmarks, on loopback, in a folder of its own.

Needs `initdb` and `postgres` (Debian: apt-get install postgresql), found on PATH or below
/usr/lib/postgresql.
"""

import contextlib
import getpass
import glob
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

USER, PASSWORD = "kerasrec", "secret"
_NUMBERS = itertools.count()


class Unavailable(Exception):
    """No server can be started here; the message says why."""


class Server:
    """Where a running server is; `new_url()` makes an empty place for tables."""

    def __init__(self, port, process):
        self.port, self.process = port, process

    def url(self, database="postgres", user=USER, password=PASSWORD):
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def run(self, statement, database="postgres"):
        """Rows of one statement."""
        import psycopg

        with psycopg.connect(self.url(database).replace("+psycopg", ""), autocommit=True) as it:
            found = it.execute(statement)
            return found.fetchall() if found.description else None

    def new_database(self):
        """Name of a database of its own: hundreds of files."""
        name = f"test_{next(_NUMBERS)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def new_url(self):
        """URL of a schema of its own in one database: cheap."""
        name = f"schema_{next(_NUMBERS)}"
        self.run(f"CREATE SCHEMA {name}")
        return f"{self.url()}?options=-csearch_path%3D{name}"


def program(name):
    """Path of a program of PostgreSQL, newest version first."""
    versions = sorted(
        glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: float(p.split("/")[-2]), reverse=True
    )
    found = shutil.which(name, path=os.pathsep.join([*versions, os.environ.get("PATH", "")]))
    if not found:
        raise Unavailable(f"{name} of PostgreSQL is not installed (apt-get install postgresql)")
    return found


def account():
    """Who the server runs as: PostgreSQL refuses root."""
    if os.geteuid():
        return getpass.getuser()
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise Unavailable("PostgreSQL refuses root, and there is no user postgres or nobody")


@contextlib.contextmanager
def running(*, fsync=False):
    """A started `Server`; stopped and removed at the end.

    Without fsync a test does not wait for the disk; what is measured or killed needs it.
    """
    initdb, postgres, user = program("initdb"), program("postgres"), account()
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="kerasrec-postgres-"))
    try:
        (folder / "password").write_text(PASSWORD)
        how = dict(cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        if not os.geteuid():
            entry = pwd.getpwnam(user)
            for path in (folder, folder / "password"):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            how |= dict(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
        options = ["-U", USER, "--pwfile", "password", "-A", "scram-sha-256", "-E", "UTF8"]
        command = [initdb, "-D", "data", "--locale=C", *options]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True, **how)
        if made.returncode:
            raise Unavailable(f"initdb fails: {made.stdout.strip()[-300:]}")
        command = [postgres, "-D", "data", "-k", str(folder), "-p", str(port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=64MB"]
        command += ["-c", f"fsync={'on' if fsync else 'off'}"]
        with open(folder / "log", "w") as out:
            process = subprocess.Popen(command, stdout=out, **how)
        try:
            server = Server(port, process)
            _wait(server, folder / "log")
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nobody will need the files
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server, log):
    import psycopg

    for _ in range(300):
        if server.process.poll() is not None:
            raise Unavailable(f"postgres ends at once: {log.read_text()[-300:]}")
        with contextlib.suppress(psycopg.OperationalError):
            server.run("SELECT 1")
            return
        time.sleep(0.1)
    raise Unavailable("postgres does not answer within 30 seconds")
