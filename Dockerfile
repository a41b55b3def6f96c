# Everything of ours lies under /opt/stancery, where nothing is written at run time; what a service keeps goes to
# /var/lib/stancery. The first stage has the compiler that the feature function is built with. The last is what is built
# unless another is named: it serves, without a compiler or a trainer. `--target retraining` adds the trainer, in an
# environment of its own.

FROM python:3.12 AS build
WORKDIR /opt/stancery/source
COPY pyproject.toml README.md LICENSE CHANGELOG.md stancery.py ./
COPY models models
COPY service service
COPY training training
COPY seeds seeds
RUN python3 -m venv /opt/stancery/trainer && /opt/stancery/trainer/bin/pip install --no-cache-dir ".[train,encoder]"
RUN /opt/stancery/trainer/bin/stancery train seeds/paragraphs.jsonl --taxonomy seeds/taxonomy.toml --output /opt/stancery/bundle
RUN python3 -m venv /opt/stancery/venv && /opt/stancery/venv/bin/pip install --no-cache-dir ".[postgres,encoder]"

FROM python:3.12-slim AS service
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin stancery && install -d -o 10001 -g 10001 /var/lib/stancery
COPY --from=build /opt/stancery/venv /opt/stancery/venv
COPY --from=build /opt/stancery/bundle /opt/stancery/bundle
COPY --from=build /opt/stancery/source/seeds /opt/stancery/seeds
ENV PATH=/opt/stancery/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 STANCERY_BUNDLE=/opt/stancery/bundle STANCERY_HOME=/var/lib/stancery STANCERY_HOST=0.0.0.0 STANCERY_PORT=8000
USER 10001
VOLUME /var/lib/stancery
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['STANCERY_PORT'] + '/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["stancery", "serve"]

FROM service AS retraining
COPY --from=build /opt/stancery/trainer /opt/stancery/trainer
ENV STANCERY_TRAINER=/opt/stancery/trainer/bin/python3 MPLCONFIGDIR=/tmp

FROM service
