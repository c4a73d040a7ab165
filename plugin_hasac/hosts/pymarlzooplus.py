"""PyMARLzoo+ (``pymarlzooplus`` on the Python package index), the default host."""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from plugin_hasac.bench.tracking import run_folder
from plugin_hasac.controllers.hasac_mac import HasacMAC
from plugin_hasac.envs import FACTORIES
from plugin_hasac.envs import REGISTRY as OUR_ENVS
from plugin_hasac.errors import UserError
from plugin_hasac.hosts import compat
from plugin_hasac.hosts.base import Host, Observer, smallest_batch
from plugin_hasac.hosts.envs import HostEnv
from plugin_hasac.learners.hasac_learner import HasacLearner
from plugin_hasac.runners.hasac_runner import HasacRunner
from plugin_hasac.vector.contract import StepEnv


class Pymarlzooplus(Host):
    """PyMARLzoo+ 1.1.

    Raises:
        UserError: if it is not installed.
    """

    name = "pymarlzooplus"

    def __init__(self) -> None:
        spec = importlib.util.find_spec("pymarlzooplus")
        if spec is None or spec.origin is None:
            raise UserError(
                "the host 'pymarlzooplus' is not installed; run ./install.sh in the checkout, "
                "or 'pip install --no-deps pymarlzooplus==1.1.0' beside requirements.txt."
            )
        self.root = Path(spec.origin).parent

    def register(self) -> None:
        """Add our entries to the host's registries, which are plain dictionaries."""

        def registry(module: str) -> dict[str, Any]:
            return importlib.import_module(f"pymarlzooplus.{module}").REGISTRY

        registry("runners")["hasac"] = PymarlzooplusRunner
        registry("controllers")["hasac_mac"] = HasacMAC
        registry("learners")["hasac_learner"] = HasacLearner
        envs = registry("envs")
        available = importlib.import_module("pymarlzooplus.envs").REGISTRY_availability
        for name, env in {**OUR_ENVS, **FACTORIES}.items():
            if name not in envs:
                envs[name] = partial(_make, env)
                available.append(name)

    def launch(self, params: list[str], observer: Observer | None) -> None:
        """Run ``pymarlzooplus.main``, with results under the working directory, or where a suite wants them."""
        main: Any = importlib.import_module("pymarlzooplus.main")
        run: Any = importlib.import_module("pymarlzooplus.run")
        self.register()
        compat.write_instead_of_waiting(run, self.write_records)
        # The host writes beside the outermost script, which for an installed command is the venv's bin folder.
        main.get_caller_path = lambda: str(run_folder() or Path.cwd())
        with self.observed(run.Logger, observer):
            main.pymarlzooplus(["main.py", *params])

    def env_names(self) -> set[str]:
        """The host's registry and ours."""
        return set(importlib.import_module("pymarlzooplus.envs").REGISTRY_availability) | set(OUR_ENVS) | set(FACTORIES)


def _make(env: Any, **env_args: Any) -> Any:
    """What the host's registry calls; a module-level function, so that its worker processes can unpickle it."""
    return env(**env_args)


class PymarlzooplusRunner(HasacRunner):
    """HASAC's runner in this host's loop."""

    class bridge:  # noqa: N801 (a namespace, not a type that is instantiated)
        """See :class:`plugin_hasac.runners.bridge.HostBridge`."""

        worker_modules = ("plugin_hasac.cli.main", __name__, "pymarlzooplus.envs")

        @staticmethod
        def env_factory(args: SimpleNamespace, proper_time_limits: bool) -> Any:
            """Seeds travel in ``env_args``, as in the host's own runners."""
            return partial(_build_env, args.env, dict(args.env_args), proper_time_limits)

        @staticmethod
        def run_result(episode_batch: Any, returns: list[float]) -> Any:
            """The host unpacks (batch, returns)."""
            return episode_batch, returns

        @staticmethod
        def empty_batch(scheme: dict, groups: dict, preprocess: dict, device: str) -> Any:
            """One env, one step, marked as filled."""
            batch_class = importlib.import_module("pymarlzooplus.components.episode_buffer").EpisodeBatch
            return smallest_batch(batch_class, scheme, groups, preprocess, device)


def _build_env(name: str, env_args: dict[str, Any], proper_time_limits: bool, seed: int) -> StepEnv:
    registry = importlib.import_module("pymarlzooplus.envs").REGISTRY
    make: Any = registry[name] if name in registry else {**OUR_ENVS, **FACTORIES}[name]
    return HostEnv(name, make(**{**env_args, "seed": seed}), proper_time_limits)
