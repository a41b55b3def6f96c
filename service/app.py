"""The application: ``create_app(settings)``, and the server that runs it."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from os import cpu_count

import uvicorn
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from models.bundle import load_bundle
from service import openapi, problems
from service.observe import JsonFormatter, Metrics, RequestLog, log
from service.routes import Service, router
from service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Load the bundle, see that it scores its canary paragraphs right, and build the application round it.

    Raises
    ------
    BundleError
        If the bundle is damaged or does not score as it says.
    """
    bundle = load_bundle(settings.bundle)
    bundle.check_canaries()
    metrics = Metrics()
    metrics.model.labels(bundle.manifest.version).set(1)
    app: FastAPI = FastAPIOffline(
        title="Stancery",
        version=version("stancery"),
        description="Tells, for every paragraph of news, what it is about and where it stands.",
        redoc_url=None,
    )
    app.state.service = Service(settings, bundle, metrics, CapacityLimiter(cpu_count() or 1))
    app.include_router(router)
    problems.install(app)
    app.add_middleware(RequestLog, metrics=metrics)
    # Replacing the method is how FastAPI lets the document be made elsewhere.
    app.openapi = openapi.describe(app, bundle)  # type: ignore[method-assign]
    return app


def serve(settings: Settings) -> None:
    """Serve until told to stop; requests in flight are answered first, for up to ``stop_seconds``."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    app = create_app(settings)
    log.info("loaded", extra={"fields": {"model": app.state.service.bundle.manifest.version}})
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.stop_seconds,
    )
