# HarvestBrain's daemon. Runs as its own user, needs no writable root file system, and says by its health check how it is.
#
#   docker build -t harvest-brain .
#   docker run --read-only --tmpfs /run/harvest-brain:uid=10001 -e REDIS_HOST=redis harvest-brain
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
COPY requirements/runtime.txt /build/requirements/
RUN python3 -m venv /opt/harvest-brain \
    && /opt/harvest-brain/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
        --require-hashes --requirement /build/requirements/runtime.txt
COPY service /build/service
# The package is plain files; compiled once here, since the root file system is read-only where it runs.
RUN cp -r /build/service/harvest_brain "$(/opt/harvest-brain/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && /opt/harvest-brain/bin/python3 -m compileall -q /opt/harvest-brain/lib \
    && /opt/harvest-brain/bin/python3 -m pip uninstall -qy pip setuptools

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 harvest && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin harvest \
    && install -d -o harvest -g harvest /run/harvest-brain
COPY --from=build /opt/harvest-brain /opt/harvest-brain
ENV PATH=/opt/harvest-brain/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    RUNTIME_DIRECTORY=/run/harvest-brain
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python3", "-m", "harvest_brain", "health"]
ENTRYPOINT ["python3", "-m", "harvest_brain"]
CMD ["run"]
