"""The one settings module; environments differ by variables (see `imagegen_project/env.py`)."""

import logging
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django_stubs_ext
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

from imagegen_project import __version__, env
from imagegen_project.standalone import paths
from imagegen_project.standalone.paths import is_strong_secret
from imagegen_project.telemetry.logs import logging_config, process_name

django_stubs_ext.monkeypatch()  # lets `ModelAdmin[Checkpoint]` and its like be written at run time

BASE_DIR = Path(__file__).resolve().parent.parent

if env.OTEL_EXPORTER_OTLP_ENDPOINT and find_spec("opentelemetry") is None:
    raise ImproperlyConfigured(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: pip install -r requirements-otel.txt, "
        "or leave it empty."
    )

DEBUG = env.DEBUG
SECRET_KEY = env.SECRET_KEY or paths.read_secret(env.DATA_DIR, "secret_key")
# Django only warns, and only `check --deploy` shows it.
if env.SECRET_KEY and not DEBUG and not is_strong_secret(env.SECRET_KEY):
    raise ImproperlyConfigured(
        "SECRET_KEY is guessable: it must have 50 characters or more, at random. Make one with `python -c "
        "'import secrets; print(secrets.token_urlsafe(48))'`, or leave it empty where one is kept in DATA_DIR."
    )
SECRET_KEY_FALLBACKS = [key.strip() for key in env.SECRET_KEY_FALLBACKS.split(",") if key.strip()]
ALLOWED_HOSTS = env.ALLOWED_HOSTS
CSRF_TRUSTED_ORIGINS = env.CSRF_TRUSTED_ORIGINS

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "knox",
    "django_rq",
    "imagegen_project.auth",
    "imagegen_project",
    "models_registry",
    "loras",
    "generation",
]

MIDDLEWARE = [
    "imagegen_project.server.middleware.RequestContextMiddleware",
    "imagegen_project.server.middleware.ProbeHostMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "imagegen_project.server.static_files.PackedStaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "imagegen_project.urls"
ASGI_APPLICATION = "imagegen_project.asgi.application"
APPEND_SLASH = (
    False  # every API route takes both forms itself, without a redirect that would lose a POST's body
)

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "imagegen_project" / "templates"],  # before those that they replace
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def _database(url: str) -> dict[str, Any]:
    """Django's database settings from a libpq URL; a pool, since persistent connections leak under ASGI."""
    parts: dict[str, Any] = dict(conninfo_to_dict(url))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.pop("dbname", ""),
        "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""),
        "HOST": parts.pop("host", ""),
        "PORT": parts.pop("port", ""),
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            "application_name": f"imagegen {process_name()}",
            **parts,
            "pool": {"min_size": 1, "max_size": env.DB_POOL_SIZE, "timeout": 10, "max_idle": 60},
        },
    }


DATABASES = {"default": _database(env.DATABASE_URL or paths.database_url(env.DATA_DIR))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.REDIS_URL or paths.redis_url(env.DATA_DIR)
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "imagegen:cache",
        "OPTIONS": {
            # JSON, never pickle: whoever can write to Redis must not be able to run code here.
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
            "CONNECTION_POOL_KWARGS": {"socket_timeout": 5, "socket_connect_timeout": 2},
            "IGNORE_EXCEPTIONS": True,
        },
    }
}
DJANGO_REDIS_LOG_IGNORED_EXCEPTIONS = True
CHANNELS_PREFIX = "imagegen"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": REDIS_URL}], "prefix": CHANNELS_PREFIX},
    }
}
# One queue a worker: RQ recovers interrupted entries only for workers that listen to exactly one.
RQ_QUEUES = {
    name: {
        "URL": REDIS_URL,
        "DEFAULT_TIMEOUT": -1,
        "SERIALIZER": "rq.serializers.JSONSerializer",
        "REDIS_CLIENT_KWARGS": {"socket_connect_timeout": 2},
    }
    for name in (
        *("generations", "downloads", "webhooks"),
        *(f"generations.{device_class}" for device_class in env.DEVICE_CLASSES),
    )
}
# What a wake-up of GPU workers is called.
RQ_RUN_NEXT = "generation.gpu_worker.worker.run_next"

AUTHENTICATION_BACKENDS = ["imagegen_project.auth.backends.PatientModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
CSRF_FAILURE_VIEW = "imagegen_project.common.problems.csrf_failure"
LOGIN_URL = "/sign-in/"
LOGIN_REDIRECT_URL = "/"
KNOX_TOKEN_MODEL = (
    "knox.AuthToken"  # knox does not say so itself, and a relation to it has to know  # noqa: S105 - a name
)
REST_KNOX = {"TOKEN_PREFIX": "img_", "TOKEN_TTL": timedelta(days=90), "AUTH_HEADER_PREFIX": "Bearer"}

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "imagegen_project.browsable.renderer.PageRenderer",
    ],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "imagegen_project.browsable.negotiation.StrictNegotiation",
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "imagegen_project.auth.authentication.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": [
        "imagegen_project.common.parsers.BoundedJSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    # Only views that name a `throttle_scope` are throttled; generations have limits of their own.
    "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.ScopedRateThrottle"],
    "DEFAULT_THROTTLE_RATES": {
        scope: f"{times}/min" if times else None
        for scope, times in (
            ("models", env.THROTTLE_MODELS),
            ("orders", env.THROTTLE_ORDERS),
            ("tickets", env.THROTTLE_TICKETS),
            ("uploads", env.THROTTLE_UPLOADS),
        )
    },
    "NUM_PROXIES": env.TRUSTED_PROXIES,
    "DEFAULT_FILTER_BACKENDS": ["imagegen_project.common.filters.StrictFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "imagegen_project.common.pagination.NewestFirstPagination",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "imagegen_project.common.problems.problem_exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "imagegen",
    "DESCRIPTION": "A self-hosted image-generation service: one durable job, every door.",
    "VERSION": __version__,
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "/static/icon.svg",
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "displayRequestDuration": True,
        "filter": True,
        # A page's session counts as well, and that is in no storage that scripts can read.
        "persistAuthorization": True,
        # The command that it shows is for a shell, where nothing is sent by this page's session.
        "showMutatedRequest": False,
    },
    "COMPONENT_SPLIT_REQUEST": True,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "GenerationKind": "generation.choices.Kind",
        "GenerationStatus": "generation.choices.Status",
        "CommandKind": "generation.choices.CommandKind",
        "CommandStatus": "generation.choices.CommandStatus",
    },
    "PREPROCESSING_HOOKS": ["imagegen_project.openapi.hooks.keep_native_mount"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "imagegen_project.openapi.hooks.describe_operations",
    ],
}

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Without `collectstatic` (a laptop) files are served from where the packages keep them.
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = not STATIC_ROOT.is_dir()
MEDIA_ROOT = env.MEDIA_ROOT
MEDIA_URL = ""  # pictures are only served through the API, to those who may see them


def _s3_storage() -> dict[str, Any]:
    """Pictures in a bucket."""
    # A sixth of a second, which only those wait for who have one.
    from botocore.config import Config  # noqa: PLC0415

    return {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": env.MEDIA_S3_BUCKET,
            "endpoint_url": env.MEDIA_S3_ENDPOINT or None,
            "region_name": env.MEDIA_S3_REGION,
            "access_key": env.MEDIA_S3_ACCESS_KEY or None,
            "secret_key": env.MEDIA_S3_SECRET_KEY or None,
            "querystring_expire": env.MEDIA_S3_URL_TTL_S,
            # One that hangs is away: who waits for it is told within a minute, not after five.
            "client_config": Config(
                signature_version="s3v4",
                connect_timeout=5,
                read_timeout=20,
                retries={"mode": "standard", "total_max_attempts": 2},
            ),
            # A name carries its generation and attempt: what is there under it is the same picture.
            "file_overwrite": True,
        },
    }


STORAGES = {
    "default": (
        _s3_storage()
        if env.MEDIA_S3_BUCKET
        else {"BACKEND": "imagegen_project.common.storage.DurableFileSystemStorage"}
    ),
    # `collectstatic` packs each file once; who can unpack it gets it so.
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:", "blob:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
if env.BEHIND_TLS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    # Asked from inside, where there is no proxy.
    SECURE_REDIRECT_EXEMPT = [r"^health", r"^metrics"]
    SECURE_HSTS_SECONDS = 31536000
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
SESSION_ENGINE = "imagegen_project.auth.sessions"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# Whether other hosts of the operator's domain have TLS is not for this service to say.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
DATA_UPLOAD_MAX_MEMORY_SIZE = int(env.MAX_BODY_MB * 1024 * 1024)

LOGGING_CONFIG = "logging.config.dictConfig"
LOGGING = logging_config(
    level=env.LOG_LEVEL,
    log_dir=env.LOG_DIR,
    max_bytes=int(env.LOG_MAX_MB * 1024 * 1024),
    keep=env.LOG_KEEP,
    stranger_lines=env.LOG_STRANGER_LINES,
    secrets=[
        SECRET_KEY,
        *SECRET_KEY_FALLBACKS,
        env.HF_TOKEN,
        env.METRICS_TOKEN,
        env.MEDIA_S3_SECRET_KEY,
        str(DATABASES["default"]["PASSWORD"]),
        urlsplit(REDIS_URL).password or "",
    ],
)
logging.captureWarnings(True)  # noqa: FBT003 - Python's warnings become log lines, as everything else

# The project's own
DATA_DIR = env.DATA_DIR
LOG_PROMPTS = env.LOG_PROMPTS
MAX_BODY_BYTES = DATA_UPLOAD_MAX_MEMORY_SIZE
BODY_STORE_BYTES = int(env.BODY_STORE_MB * 1024 * 1024)
BODY_PATIENCE_S = env.BODY_PATIENCE_S
CONNECTIONS_PER_USER = env.CONNECTIONS_PER_USER
WEB_CONCURRENCY = env.WEB_CONCURRENCY
CORS_ALLOWED_ORIGINS = env.CORS_ALLOWED_ORIGINS
WAIT_LIMIT_S = env.WAIT_LIMIT_S
PUBLIC_URL = env.PUBLIC_URL
IMAGE_URL_TTL_S = env.IMAGE_URL_TTL_S
TICKET_TTL_S = env.TICKET_TTL_S
MEDIA_IS_SHARED = bool(env.MEDIA_S3_BUCKET)
METRICS_TOKEN = env.METRICS_TOKEN
METRICS_DIR = env.PROMETHEUS_MULTIPROC_DIR
PROCESS_NAME = process_name()
OTEL_ENDPOINT = env.OTEL_EXPORTER_OTLP_ENDPOINT
AUTH_FAILURES = env.AUTH_FAILURES
TRUSTED_PROXIES = env.TRUSTED_PROXIES
HF_ENDPOINT = env.HF_ENDPOINT
HF_TOKEN = env.HF_TOKEN
HUB_ALLOWED_USERS = env.HUB_ALLOWED_USERS
HUB_ALLOWED_ORGS = env.HUB_ALLOWED_ORGS
HUB_TIMEOUT_S = env.HUB_TIMEOUT_S
HUB_CACHE_S = env.HUB_CACHE_S
HUB_GRACE_S = env.HUB_GRACE_S
DEFAULT_MODEL_ID = env.DEFAULT_MODEL_ID
MODEL_ALIASES = [
    (name.strip(), model.strip()) for name, _, model in (text.partition("=") for text in env.MODEL_ALIASES)
]
LIST_MODEL_ALIASES = env.LIST_MODEL_ALIASES
FETCH_PICTURES = env.FETCH_PICTURES
MODEL_CACHE_DIR = env.MODEL_CACHE_DIR
LORA_CACHE_DIR = env.LORA_CACHE_DIR
LORA_CACHE_MAX_BYTES = int(env.LORA_CACHE_MAX_MB * 1024 * 1024)
LORA_USER_SHARE_BYTES = int(LORA_CACHE_MAX_BYTES * env.LORA_USER_SHARE_PERCENT / 100)
LORA_DOWNLOAD_LIMIT_S = env.LORA_DOWNLOAD_LIMIT_S
DOWNLOAD_MIN_KB_S = env.DOWNLOAD_MIN_KB_S
LORA_MAX_UPLOAD_BYTES = int(env.LORA_MAX_UPLOAD_MB * 1024 * 1024)
MODEL_CACHE_VRAM_MB = env.MODEL_CACHE_VRAM_MB
MODEL_CACHE_RAM_MB = env.MODEL_CACHE_RAM_MB
MODEL_IDLE_UNLOAD_S = env.MODEL_IDLE_UNLOAD_S
LORA_CACHE_VRAM_MB = env.LORA_CACHE_VRAM_MB
SAFETY_FILTER = env.SAFETY_FILTER
SAFETY_MODEL = env.SAFETY_MODEL
SAFETY_LABELS = env.SAFETY_LABELS
SAFETY_THRESHOLD = env.SAFETY_THRESHOLD
TORCH_THREADS = env.TORCH_THREADS
COMPILE_MODELS = env.COMPILE_MODELS
CUDA_GRAPHS = env.CUDA_GRAPHS
DEVICE_CLASSES = env.DEVICE_CLASSES
DEVICE_CLASS = env.DEVICE_CLASS
DEFAULT_TIMEOUT_S = env.DEFAULT_TIMEOUT_S
MAX_TIMEOUT_S = env.MAX_TIMEOUT_S
MAX_ATTEMPTS = env.MAX_ATTEMPTS
LEASE_S = env.LEASE_S
WATCHDOG_S = env.WATCHDOG_S
WORKER_GRACE_S = env.WORKER_GRACE_S
WEB_GRACE_S = env.WEB_GRACE_S
FEED_TTL_S = env.FEED_TTL_S
FEED_MAX_EVENTS = env.FEED_MAX_EVENTS
MAX_QUEUED = env.MAX_QUEUED
MAX_QUEUED_PER_USER = env.MAX_QUEUED_PER_USER
WORK_LIMIT = env.WORK_LIMIT
WORK_WINDOW_S = env.WORK_WINDOW_S
STORAGE_QUOTA_BYTES = int(env.STORAGE_QUOTA_MB * 1024 * 1024)
A1111_OPEN_NETWORKS = env.A1111_OPEN_NETWORKS
A1111_OPEN_USER = env.A1111_OPEN_USER
A1111_STRICT = env.A1111_STRICT
WEBHOOK_ALLOW_PRIVATE = env.WEBHOOK_ALLOW_PRIVATE
WEBHOOK_TIMEOUT_S = env.WEBHOOK_TIMEOUT_S
WEBHOOK_MAX_ATTEMPTS = env.WEBHOOK_MAX_ATTEMPTS
