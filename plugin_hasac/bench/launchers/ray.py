"""Runs on an existing Ray cluster, whose machines see the same files and have the same Python environment."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugin_hasac.bench.launchers import make_job
from plugin_hasac.bench.ledger import is_locked
from plugin_hasac.bench.suite import Run, Suite
from plugin_hasac.errors import UserError

SECONDS_TO_STOP = 15.0


@dataclass
class RayHandle:
    """A task of Ray's."""

    ray: Any
    reference: Any

    def over(self) -> bool:
        """Whether the task has ended."""
        return bool(self.ray.wait([self.reference], timeout=0)[0])


class Ray:
    """See :class:`plugin_hasac.bench.launchers.Launcher`. Ray itself decides when a run starts, by its resources.

    Args:
        suite: whose runs to start.
        address: of the cluster, such as ``10.0.0.1:6379``, ``ray://10.0.0.1:10001`` or ``auto``.

    Raises:
        UserError: if Ray is not installed, there is no such cluster or no machine of it can take a run.
    """

    def __init__(self, suite: Suite, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UserError("--ray needs Ray: pip install 'plugin_hasac[ray]'") from None
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--ray {address}: no Ray cluster answers there ({reason}); 'ray start --head'?") from None
        self._ray, self._suite = ray, suite
        self._handed_over: list[tuple[Any, Path]] = []
        resources = suite.resources
        self.capacity = resources.workers or sys.maxsize
        if not any(
            node["Resources"].get("CPU", 0) >= resources.threads and node["Resources"].get("GPU", 0) >= resources.gpus
            for node in ray.nodes()
            if node["Alive"]
        ):
            ray.shutdown()
            raise UserError(
                f"--ray {address}: no machine of the cluster has {resources.threads} CPUs and {resources.gpus:g} GPUs, "
                "which is what 'resources' gives to each run."
            )

        # Defined here, it travels by value: workers of the cluster need not import the plugin before it runs.
        def make(arguments: list[str], environment: dict[str, str]) -> int:
            import os
            import subprocess
            import sys
            import time

            command = [sys.executable, *arguments, str(os.getpid())]
            process = subprocess.Popen(command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL)
            try:
                while process.poll() is None:  # Ray's KeyboardInterrupt for a cancelled task ends no wait()
                    time.sleep(0.2)
                return process.returncode
            finally:
                process.terminate()
                process.wait()

        self._make = ray.remote(num_cpus=resources.threads, num_gpus=resources.gpus, max_retries=0)(make)

    def start(self, run: Run) -> RayHandle:
        """Hand a run to Ray."""
        job = make_job(self._suite, run)
        reference = self._make.options(name=run.name).remote(job.arguments(), job.environment)
        self._handed_over.append((reference, self._suite.folder / run.folder))
        return RayHandle(self._ray, reference)

    def stop(self) -> None:
        """Cancel all tasks, which end their runs."""
        for reference, _folder in self._handed_over:
            self._ray.cancel(reference, force=False)
        # Ray calls a task over when it is cancelled, not when it has ended; and kills what has not when it shuts down.
        until = time.monotonic() + SECONDS_TO_STOP
        while any(is_locked(folder) for _, folder in self._handed_over) and time.monotonic() < until:
            time.sleep(0.1)
        self._ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError if nothing listens there, which Ray takes minutes to find out."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
