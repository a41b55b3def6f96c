"""The routes, thin: read, check, hand to a worker thread, encode."""

from service.routes import classify, labels, models, operations, trainings

ROUTERS = (classify.router, labels.router, trainings.router, models.router, operations.router)
