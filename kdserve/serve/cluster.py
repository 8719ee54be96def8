"""The same application as a Ray Serve deployment, for more than one machine."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

from kdserve.errors import MissingExtraError
from kdserve.serve.settings import ServerSettings

MOST_ONGOING = 1000
"""Requests that a replica may have open: its own limits refuse, with 429, what is too much."""


def deployment(settings: ServerSettings, *, num_replicas: int = 1, cpus_each: float = 1.0) -> Any:
    """Return an application for `ray.serve.run`: `num_replicas` of the server, each with so many CPUs and threads.

    Every machine must find the bundles and indexes at their paths. Host, port, processes and what SIGTERM does are
    Ray's: give these to it. Several machines want its HAProxy (`RAY_SERVE_ENABLE_HA_PROXY=1`), its own proxy is slow.

    Raises:
        MissingExtraError: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError(error.name or "ray", "cluster") from error

    def build() -> ASGIApp:
        from kdserve.serve.app import Application

        return Application(settings)

    make = serve.deployment(
        serve.ingress(build)(),
        name="kdserve",
        num_replicas=num_replicas,
        max_ongoing_requests=MOST_ONGOING,
        ray_actor_options={"num_cpus": cpus_each},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=settings.stop_s,
    )
    return make.bind()
