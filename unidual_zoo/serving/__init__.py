"""Files sent over HTTP to labels: a service around a `Predictor`. Needs the extra `serve`, and says so."""

from unidual_zoo.extras import require

for _module in ("fastapi", "python_multipart", "uvicorn"):
    require(_module, "serve")
