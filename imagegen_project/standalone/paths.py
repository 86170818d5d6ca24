"""Where the embedded PostgreSQL and Redis of a data folder live, and the secrets that open them.

Kept apart from `servers.py` so that any process can compute the URLs without importing the server wheels.
"""

import hashlib
import os
import secrets
import tempfile
from pathlib import Path
from urllib.parse import quote

# A Unix socket's path may have 107 bytes on Linux; PostgreSQL appends "/.s.PGSQL.5432".
MAX_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432")
DATABASE_NAME = "imagegen"
MIN_SECRET_LENGTH, MIN_SECRET_VARIETY = 50, 5


def secret_file(data_dir: Path, name: str) -> Path:
    """The file that holds one secret of the data folder (`postgres_password`, `redis_password`, `secret_key`)."""
    return data_dir / "secrets" / name


def read_secret(data_dir: Path, name: str) -> str:
    """The secret, or "" while it has not been made."""
    path = secret_file(data_dir, name)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def ensure_secret(data_dir: Path, name: str) -> str:
    """The secret, made at random on first use and kept in a file of mode 0600."""
    if value := read_secret(data_dir, name):
        return value
    path = secret_file(data_dir, name)
    for folder in (data_dir, path.parent):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(secrets.token_urlsafe(48), encoding="utf-8")
    return read_secret(data_dir, name)


def is_strong_secret(value: str) -> bool:
    """Whether a signing key is long and varied enough, by the rules of Django's own check."""
    return (
        len(value) >= MIN_SECRET_LENGTH and len(set(value)) >= MIN_SECRET_VARIETY and "insecure" not in value
    )


def socket_folder(data_dir: Path, server: str) -> Path:
    """The folder of a server's Unix socket: in the data folder, or a short one in /tmp where that path is too long."""
    folder = data_dir / "run" / server
    if len(os.fsencode(folder)) <= MAX_SOCKET_FOLDER:
        return folder
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"imagegen-{digest}-{server}"


def database_url(data_dir: Path) -> str:
    """The embedded PostgreSQL's URL."""
    password = read_secret(data_dir, "postgres_password")
    host = quote(str(socket_folder(data_dir, "postgres")), safe="")
    return f"postgresql://postgres:{password}@/{DATABASE_NAME}?host={host}"


def redis_url(data_dir: Path) -> str:
    """The embedded Redis' URL."""
    password = read_secret(data_dir, "redis_password")
    return f"unix://:{password}@{quote(str(redis_socket(data_dir)))}?db=0"


def redis_socket(data_dir: Path) -> Path:
    """The socket of the embedded Redis."""
    return socket_folder(data_dir, "redis") / "redis.sock"


def ensure_secrets(data_dir: Path) -> None:
    """Makes every secret that the settings read; must come before they are loaded."""
    for name in ("postgres_password", "redis_password", "secret_key"):
        ensure_secret(data_dir, name)
