"""Hosts that are a folder, not a package: EPyMARL, PyMARL2, PyMARL and labs' forks of them."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import runpy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

from plugin_hasac.controllers.hasac_mac import HasacMAC
from plugin_hasac.envs import FACTORIES
from plugin_hasac.envs import REGISTRY as OUR_ENVS
from plugin_hasac.envs.starcraft import refuse_without_starcraft
from plugin_hasac.errors import UserError
from plugin_hasac.hosts import compat
from plugin_hasac.hosts.base import Host, Observer, smallest_batch
from plugin_hasac.hosts.envs import STARCRAFT, HostEnv
from plugin_hasac.learners.hasac_learner import HasacLearner
from plugin_hasac.runners.hasac_runner import HasacRunner
from plugin_hasac.vector.contract import StepEnv


class Checkout(Host):
    """A folder whose ``src/main.py`` is the host's main program; its modules are imported without a prefix.

    Args:
        path: the checkout.

    Attributes:
        family: what its documentation calls it.
        marker: file below ``src/`` by which a checkout is recognised, after the families before it in ``FAMILIES``.
        tested_commit: the commit that this plugin was tested with.
        requirements: modules that the host imports at its start, and what to install for each.
        lazy_envs: names that the host registers on demand.
        exits: modules that end the process with ``os._exit``.
    """

    family: ClassVar[str]
    marker: ClassVar[str]
    tested_commit: ClassVar[str]
    requirements: ClassVar[dict[str, str]]
    lazy_envs: ClassVar[tuple[str, ...]] = ()
    exits: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.root = self.path / "src"
        self.main = self.root / "main.py"
        self.name = str(self.path)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder is a checkout of this family."""
        return (path / "src" / cls.marker).is_file()

    # ---------------------------------------------------------------- what differs between families

    def make_env(self, name: str, env_args: dict[str, Any]) -> Any:
        """An env of the host's registry, seed included in ``env_args``."""
        registry = self.module("envs").REGISTRY
        return registry[name](**env_args) if name in registry else FACTORIES[name](**env_args)

    def env_args(self, args: SimpleNamespace) -> dict[str, Any]:
        """What the host's own runners pass to an env."""
        return dict(args.env_args)

    def for_host(self, env: type) -> Callable[..., Any]:
        """An env of ours as the host's own runners expect it."""
        return env

    # ---------------------------------------------------------------- Host

    def module(self, name: str) -> ModuleType:
        """Import one of the host's modules.

        Raises:
            UserError: if the host needs a package that is missing; the message says what to install.
        """
        self._activate()
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            advice = self.requirements.get(missing)
            if advice is None and (self.root / missing).exists():
                raise
            raise UserError(
                f"{self.family} at {self.path} imports '{missing}', which is not installed: "
                f"pip install {advice or missing}"
            ) from error

    def _activate(self) -> None:
        compat.restore_imp()
        compat.restore_collections()
        compat.restore_yaml_load()
        if str(self.root) not in sys.path:
            sys.path.insert(0, str(self.root))

    def register(self) -> None:
        """Add our entries to the host's registries, which are plain dictionaries."""
        bridge = CheckoutBridge(self)
        self.module("runners").REGISTRY["hasac"] = type("CheckoutRunner", (HasacRunner,), {"bridge": bridge})
        self.module("controllers").REGISTRY["hasac_mac"] = HasacMAC
        self.module("learners").REGISTRY["hasac_learner"] = HasacLearner
        envs = self.module("envs").REGISTRY
        for name, env in OUR_ENVS.items():
            if name not in envs:
                envs[name] = self.for_host(env)
                self.added_envs().add(name)
        for name, factory in FACTORIES.items():
            if name not in self.lazy_envs:
                envs.setdefault(name, factory)
        compat.finish_sacred_records([self.module(name) for name in self.exits])

    def added_envs(self) -> set[str]:
        """Names of those of our envs that the host has no env of its own for, once registered."""
        return vars(self.module("envs")).setdefault("hasac_envs", set())

    def launch(self, params: list[str], observer: Observer | None) -> None:
        """Run the host's ``src/main.py`` as the main program. Results land where it puts them, in the checkout."""
        self.register()
        arguments, sys.argv = sys.argv, [str(self.main), *params]
        root, level, handlers = logging.getLogger(), logging.root.level, list(logging.root.handlers)
        try:
            with self.observed(self.module("utils.logging").Logger, observer):
                runpy.run_path(str(self.main), run_name="__main__")
        finally:
            sys.argv = arguments
            root.handlers[:] = handlers  # hosts make the root logger print everything
            root.setLevel(level)

    def env_names(self) -> set[str]:
        """The host's registry and ours."""
        return {*self.module("envs").REGISTRY, *self.lazy_envs, *OUR_ENVS, *FACTORIES}

    # ---------------------------------------------------------------- what it is

    def commit(self) -> str:
        """The checked-out commit, or ``unknown`` outside git."""
        done = subprocess.run(
            ["git", "-C", self.path, "rev-parse", "HEAD"], check=False, capture_output=True, text=True
        )
        return done.stdout.strip() or "unknown"

    def missing(self) -> dict[str, str]:
        """Packages that the host imports at its start and that are not installed, with what to install."""
        self._activate()
        return {name: advice for name, advice in self.requirements.items() if importlib.util.find_spec(name) is None}


class CheckoutBridge:
    """See :class:`plugin_hasac.runners.bridge.HostBridge`."""

    worker_modules = ("plugin_hasac.hosts.checkout",)

    def __init__(self, host: Checkout) -> None:
        self.host = host

    def env_factory(self, args: SimpleNamespace, proper_time_limits: bool) -> Callable[[int], StepEnv]:
        """Seeds travel in ``env_args``, as in the hosts' own runners; every env gets its own."""
        if not getattr(args, "common_reward", True):
            raise UserError(
                "common_reward: False gives every agent a reward of its own; HASAC is cooperative: use True."
            )
        ours = args.env in self.host.added_envs()
        env_args = self.host.env_args(args)
        return partial(_build_env, type(self.host), self.host.path, args.env, env_args, ours, proper_time_limits)

    def run_result(self, episode_batch: Any, returns: list[float]) -> Any:
        """The loop inserts the batch into its buffer."""
        return episode_batch

    def empty_batch(self, scheme: dict, groups: dict, preprocess: dict, device: str) -> Any:
        """One env, one step, marked as filled."""
        module = self.host.module("components.episode_buffer")
        return smallest_batch(module.EpisodeBatch, scheme, groups, preprocess, device)


def _build_env(
    family: type[Checkout],
    path: Path,
    name: str,
    env_args: dict[str, Any],
    ours: bool,
    proper_time_limits: bool,
    seed: int,
) -> StepEnv:
    host = family(path)
    own = {**env_args, "seed": seed}
    if ours:
        return HostEnv(name, OUR_ENVS[name](**own), proper_time_limits)
    host.module("envs")  # some set SC2PATH
    if name in STARCRAFT:
        refuse_without_starcraft()
    env = host.make_env(name, own)
    return HostEnv(name, env, proper_time_limits)


class Epymarl(Checkout):
    """EPyMARL, main branch."""

    family = "EPyMARL"
    marker = "utils/general_reward_support.py"
    tested_commit = "cbc38c09588064eab978501d0f12c2cf58fa7fc2"
    requirements: ClassVar[dict[str, str]] = {
        "smaclite": "Rtree==1.4.1 git+https://github.com/uoe-agents/smaclite",
        "gymnasium": "gymnasium==1.4.0",
        "pettingzoo": "pettingzoo==1.24.3",
        "sacred": "sacred==0.8.7",
    }

    lazy_envs = STARCRAFT

    def make_env(self, name: str, env_args: dict[str, Any]) -> Any:
        """SMAC and SMACv2 cannot be imported together, so the host registers them on demand."""
        envs = self.module("envs")
        if name in STARCRAFT and name not in envs.REGISTRY:
            envs.register_smac() if name == "sc2" else envs.register_smacv2()
        rewards = {"common_reward": True, "reward_scalarisation": env_args.pop("reward_scalarisation", "sum")}
        return envs.REGISTRY[name](**env_args, **rewards)

    def env_args(self, args: SimpleNamespace) -> dict[str, Any]:
        """How rewards are added up is a key of its own in this host."""
        own = {} if args.env in OUR_ENVS else {"reward_scalarisation": args.reward_scalarisation}
        return {**args.env_args, **own}

    def for_host(self, env: type) -> Callable[..., Any]:
        """Its runners give two arguments more and expect gymnasium's five results."""
        return partial(_gymnasium_style, env)


def _gymnasium_style(env_class: type, *, common_reward: bool, reward_scalarisation: str, **env_args: Any) -> Any:
    if not common_reward:
        raise UserError(f"env '{env_class.name}' has one reward for the team; use common_reward=True.")  # type: ignore[attr-defined]
    return type(env_class.__name__, (_FiveResults, env_class), {})(**env_args)


class _FiveResults:
    """Mixed into an env of ours: gymnasium's results of ``step`` and ``reset``."""

    def step(self, actions: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Observations, reward, terminated, truncated, info."""
        reward, over, info = super().step(actions)  # type: ignore[misc]
        cut_off = bool(info.get("episode_limit"))
        return self.get_obs(), reward, over and not cut_off, over and cut_off, info  # type: ignore[attr-defined]

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Observations and info."""
        super().reset(seed)  # type: ignore[misc]
        return self.get_obs(), {}  # type: ignore[attr-defined]


class Pymarl2(Checkout):
    """PyMARL2 (hijkzzz), default branch."""

    family = "PyMARL2"
    marker = "run/run.py"
    tested_commit = "8ccac7c5aa134422a2e3009be735d23cdf8ce2f8"
    requirements: ClassVar[dict[str, str]] = {
        "smac": "protobuf==3.20.3 pysc2==4.0.0 git+https://github.com/oxwhirl/smac",
        "pysc2": "protobuf==3.20.3 pysc2==4.0.0",
        "sacred": "sacred==0.8.7",
    }
    exits = ("run.run", "run.on_off_run", "run.dop_run", "run.per_run")


class Pymarl(Checkout):
    """PyMARL (oxwhirl), default branch."""

    family = "PyMARL"
    marker = "run.py"
    tested_commit = "c971afdceb34635d31b778021b0ef90d7af51e86"
    requirements = Pymarl2.requirements
    exits = ("run",)


FAMILIES: tuple[type[Checkout], ...] = (Epymarl, Pymarl2, Pymarl)


def checkout_at(path: Path) -> Checkout:
    """The host in a folder.

    Raises:
        UserError: if there is none of a known family.
    """
    names = ", ".join(family.family for family in FAMILIES)
    if not path.is_dir():
        raise UserError(f"host {path} does not exist; expected 'pymarlzooplus' or the path of a checkout of {names}.")
    if not (path / "src" / "main.py").is_file() or not (path / "src" / "runners").is_dir():
        raise UserError(f"{path} is not a checkout of {names}: it has no src/main.py beside src/runners.")
    for family in FAMILIES:
        if family.recognises(path):
            return family(path)
    raise UserError(f"{path} has a src/main.py but not the run loop of {names}.")
