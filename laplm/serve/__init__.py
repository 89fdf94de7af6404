"""HTTP over run and look; tuning is started as a subprocess (extra: serve)."""

from laplm.errors import MissingExtraError

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtraError("The server", "serve") from error
