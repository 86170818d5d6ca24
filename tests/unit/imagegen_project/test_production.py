"""A service that strangers can reach: what it refuses to start with, and what every answer carries."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

from imagegen_project.standalone.paths import is_strong_secret

REPOSITORY = Path(__file__).resolve().parents[3]
STRONG = "kW3-tests-only-9fQ2zLx7Vb0Rn5Ty8Uj4Md6Hs1Pc3Ga2Ew7Zo"
SHOW = """
import json
from django.conf import settings
names = "SECRET_KEY DEBUG METRICS_TOKEN REDIS_URL SECURE_HSTS_SECONDS SESSION_COOKIE_SECURE SECURE_SSL_REDIRECT"
shown = {name: getattr(settings, name) for name in names.split()}
print(json.dumps(shown | {"password": settings.DATABASES["default"]["PASSWORD"]}))
"""


def run(*command: str, tmp_path: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own, with these variables only."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    settings = {"DJANGO_SETTINGS_MODULE": "imagegen_project.settings", "DATA_DIR": str(tmp_path / "data")}
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", *command],
        cwd=tmp_path,
        env={**kept, **settings, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


PRODUCTION = {
    "SECRET_KEY": STRONG,
    "ALLOWED_HOSTS": "images.example.org",
    "CSRF_TRUSTED_ORIGINS": "https://images.example.org",
    "BEHIND_TLS": "true",
    "TRUSTED_PROXIES": "1",
    "HUB_ALLOWED_ORGS": "example",
    "DATABASE_URL": "postgresql://imagegen:x@postgres/imagegen",
    "REDIS_URL": "redis://redis:6379/0",
}


@pytest.mark.slow
def test_check_deploy_is_clean_in_production(tmp_path: Path) -> None:
    """No warning of Django's, of ours, or of a package's."""
    manage = str(REPOSITORY / "manage.py")
    done = run(manage, "check", "--deploy", "--fail-level", "WARNING", tmp_path=tmp_path, **PRODUCTION)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"BEHIND_TLS": "false", "DEBUG": "true"}, ["security.W004", "security.W018"]),
        (
            {
                "HUB_ALLOWED_ORGS": "",
                "ALLOWED_HOSTS": "*",
                "TRUSTED_PROXIES": "0",
                "A1111_OPEN_NETWORKS": "10.0.0.0/8",
            },
            ["imagegen.W001", "imagegen.W002", "imagegen.W003", "imagegen.W004", "10.0.0.0/8"],
        ),
    ],
)
def test_check_deploy_says_what_is_missing(tmp_path: Path, change: dict[str, str], codes: list[str]) -> None:
    manage = str(REPOSITORY / "manage.py")
    done = run(manage, "check", "--deploy", tmp_path=tmp_path, **PRODUCTION | change)
    assert [code for code in codes if code not in done.stderr] == []


@pytest.mark.django_db
def test_the_schema_needs_no_database(django_assert_num_queries: Any) -> None:
    """`check --deploy` makes it too, where the service does not run yet."""
    with django_assert_num_queries(0):
        assert SchemaGenerator().get_schema(public=True)["paths"]


@pytest.mark.parametrize("key", ["changeme", "x" * 60, "django-insecure-" + STRONG, STRONG[:49]])
def test_keys_that_can_be_guessed_are_known(key: str) -> None:
    assert not is_strong_secret(key)
    assert is_strong_secret(STRONG)


def test_a_weak_key_stops_the_start(tmp_path: Path) -> None:
    """Except while debugging."""
    done = run("-c", SHOW, tmp_path=tmp_path, SECRET_KEY=STRONG[:49])
    assert done.returncode != 0
    assert "SECRET_KEY is guessable" in done.stderr
    assert STRONG[:49] not in done.stderr
    assert run("-c", SHOW, tmp_path=tmp_path, SECRET_KEY=STRONG[:49], DEBUG="true").returncode == 0


def test_no_key_at_all_stops_the_start(tmp_path: Path) -> None:
    """Where none was kept in the data folder either."""
    assert "SECRET_KEY" in run("-c", SHOW, tmp_path=tmp_path).stderr


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """As containers get them; a password goes into the address of its server."""
    secrets = {
        "SECRET_KEY": STRONG,
        "METRICS_TOKEN": "scrape",
        "DATABASE_PASSWORD": "p@ss/1",
        "REDIS_PASSWORD": "r:2",
    }
    for name, value in secrets.items():
        (tmp_path / name).write_text(value + "\n")
    variables = {f"{name}_FILE": str(tmp_path / name) for name in secrets}
    done = run(
        "-c",
        SHOW,
        tmp_path=tmp_path,
        DATABASE_URL="postgresql://imagegen@postgres:5432/imagegen",
        REDIS_URL="redis://redis:6379/0",
        **variables,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["SECRET_KEY"] == STRONG
    assert shown["METRICS_TOKEN"] == secrets["METRICS_TOKEN"]
    assert shown["password"] == secrets["DATABASE_PASSWORD"]
    assert shown["REDIS_URL"] == "redis://:r%3A2@redis:6379/0"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"METRICS_TOKEN_FILE": "/nowhere"}, "METRICS_TOKEN_FILE cannot be read"),
        ({"METRICS_TOKEN_FILE": "/nowhere", "METRICS_TOKEN": "x"}, "are both set"),
    ],
)
def test_a_secret_that_cannot_be_had_stops_the_start(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    assert said in run("-c", SHOW, tmp_path=tmp_path, SECRET_KEY=STRONG, **variables).stderr


@pytest.mark.parametrize(
    "path", ["/", "/health/ready", "/api/docs/", "/api/v1/models", "/sign-in/", "/nowhere"]
)
def test_every_answer_carries_the_policies(client: Client, db: None, path: str) -> None:
    """No script but this site's own files, no frame, no guessing of types, no address told to others."""
    headers = client.get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/api/docs/", "/sign-in/", "/api/v1/", "/api/v1/generations"])
def test_pages_work_under_the_policy(client: Client, db: None, path: str) -> None:
    """No script and no style inside a page, which the policy would stop."""
    page = client.get(path, headers={"accept": "text/html"}).content.decode()
    assert "</html>" in page
    scripts = [part.partition(">")[0] for part in page.split("<script")[1:]]
    assert [tag for tag in scripts if "src=" not in tag and "application/json" not in tag] == []
    assert not [
        word for word in (" onclick=", " onload=", "javascript:", " style=", "<style") if word in page
    ]


@pytest.mark.slow
def test_behind_tls(tmp_path: Path) -> None:
    """Cookies and browsers stay with TLS; plain HTTP is redirected, except what is asked from inside."""
    program = """
import django
django.setup()
from django.test import Client
client = Client(headers={"host": "images.example.org"})
plain, secure = client.get("/api/docs/"), client.get("/api/docs/", headers={"x-forwarded-proto": "https"})
assert plain.status_code == 301 and plain["Location"] == "https://images.example.org/api/docs/", plain
assert secure.status_code == 200 and "max-age=31536000" in secure["Strict-Transport-Security"]
assert client.get("/health/ready").status_code == 503  # nothing behind it answers
login = client.get("/sign-in/", headers={"x-forwarded-proto": "https"})
assert login.cookies["csrftoken"]["secure"] and login.cookies["csrftoken"]["samesite"] == "Lax"
stranger = Client(headers={"host": "evil.example", "x-forwarded-proto": "https"})
assert stranger.get("/api/docs/").status_code == 400
assert Client(headers={"host": "10.1.2.3:8000"}).get("/health/ready").status_code == 503
"""
    done = run("-c", program, tmp_path=tmp_path, **PRODUCTION)
    assert done.returncode == 0, done.stderr
