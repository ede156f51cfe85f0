# HarvestBrain's daemon. Runs as its own user, needs no writable root file system, and says by its health check how it is.
#
#   docker build -t harvest-brain .
#   docker run --read-only --tmpfs /run/harvest-brain:uid=10001 -e REDIS_HOST=redis harvest-brain
ARG BASE_IMAGE=python:3.12-slim-bookworm

# The wheels, and all that a host needs: what `make bundle` makes, byte for byte.
FROM ${BASE_IMAGE} AS wheels
COPY requirements/build.txt /source/requirements/
RUN python3 -m venv /tools \
    && /tools/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
        --require-hashes --requirement /source/requirements/build.txt
COPY . /source
RUN /tools/bin/python3 -B /source/tools/bundle.py --out /dist

# docker build --target bundle --output dist .    (docs/harvestctl.md says how without BuildKit)
FROM scratch AS bundle
COPY --from=wheels /dist /

# The image is installed from that bundle, as a host is: without network, each wheel by its hash.
FROM ${BASE_IMAGE} AS build
COPY --from=wheels /dist /dist
RUN python3 -m venv /opt/harvest-brain \
    && cd /dist/harvest-brain-*/ \
    && /opt/harvest-brain/bin/pip install --no-cache-dir --disable-pip-version-check --no-index --find-links wheelhouse \
        --only-binary :all: --require-hashes --requirement requirements.txt \
    && /opt/harvest-brain/bin/python3 -m compileall -q /opt/harvest-brain/lib \
    && /opt/harvest-brain/bin/python3 -m pip uninstall -qy pip setuptools

FROM ${BASE_IMAGE}
# Nothing is ever installed into the image that runs, so what installs is taken from the base.
RUN rm -rf /usr/bin/pip* /usr/local/bin/pip* /usr/lib/python3/dist-packages/pip /usr/local/lib/python3.*/site-packages/pip
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
