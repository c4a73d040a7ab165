"""What the runner needs from a host; each host module implements it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

from plugin_hasac.vector.contract import StepEnv


class HostBridge(Protocol):
    """Differences between hosts, as far as the runner meets them."""

    worker_modules: Sequence[str]  # what an env worker has to import, for sharing it among workers

    def env_factory(self, args: SimpleNamespace, proper_time_limits: bool) -> Callable[[int], StepEnv]:
        """A picklable constructor of the configured env that takes the env's seed.

        Args:
            args: the host's config.
            proper_time_limits: see ``time_limit_bootstrap`` in :class:`plugin_hasac.config.HasacConfig`.
        """

    def run_result(self, episode_batch: Any, returns: list[float]) -> Any:
        """What the host's loop expects ``runner.run`` to return."""

    def empty_batch(self, scheme: dict, groups: dict, preprocess: dict, device: str) -> Any:
        """The smallest filled EpisodeBatch that the host's buffer takes: one env, one time step."""
