# One image for every process: api, projector, deleter, migrate and the operator's commands.
# The embedded engine is not in it (534 MiB); containers talk to a ClickHouse server and to Kafka.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
RUN python -m venv /opt/personlog
# What is pinned first: this layer changes only when the pins do.
COPY requirements/server.txt requirements/server.txt
RUN /opt/personlog/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY clients clients
COPY services services
COPY shared shared
RUN /opt/personlog/bin/pip install --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps . \
    && /opt/personlog/bin/python -m compileall -q /opt/personlog/lib

FROM python:${PYTHON}
# The owner of /data must exist before the volume does: a new volume takes the owner of what it covers.
RUN groupadd --gid 10001 personlog \
    && useradd --uid 10001 --gid personlog --no-create-home --shell /usr/sbin/nologin personlog \
    && install -d -m 0700 -o personlog -g personlog /data
COPY --from=build /opt/personlog /opt/personlog
ENV PATH=/opt/personlog/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PERSONLOG_DATA=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
ENTRYPOINT ["personlog"]
CMD ["--help"]
