# The image that serves: an environment without a compiler or a trainer, and the bundle fitted from the seeds.
# Everything of ours lies under /opt/stancery; nothing there is written at run time.

FROM python:3.12-slim AS build
WORKDIR /opt/stancery/source
COPY pyproject.toml README.md LICENSE CHANGELOG.md stancery.py ./
COPY models models
COPY service service
COPY training training
COPY seeds seeds
RUN python3 -m venv /opt/stancery/trainer && /opt/stancery/trainer/bin/pip install --no-cache-dir ".[train]"
RUN /opt/stancery/trainer/bin/stancery train seeds/paragraphs.jsonl --taxonomy seeds/taxonomy.toml --output /opt/stancery/bundle
RUN python3 -m venv /opt/stancery/venv && /opt/stancery/venv/bin/pip install --no-cache-dir .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin stancery
COPY --from=build /opt/stancery/venv /opt/stancery/venv
COPY --from=build /opt/stancery/bundle /opt/stancery/bundle
ENV PATH=/opt/stancery/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 STANCERY_BUNDLE=/opt/stancery/bundle STANCERY_HOST=0.0.0.0 STANCERY_PORT=8000
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['STANCERY_PORT'] + '/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["stancery", "serve"]
