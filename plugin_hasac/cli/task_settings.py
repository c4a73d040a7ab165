"""What ``hasac run`` adds to a request by itself: the task's name, and the authors' settings for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugin_hasac.envs import REGISTRY
from plugin_hasac.hosts.base import PLUGIN_CONFIG, read_yaml


def task_settings(config: Mapping[str, Any], changes: Mapping[str, Any], ours: bool) -> tuple[list[str], str]:
    """Words in sacred's syntax that complete a request for one of the plugin's envs.

    Args:
        config: everything merged so far.
        changes: what was given on the command line; never overridden.
        ours: whether the algorithm is of this plugin, and so may take the authors' settings.

    Returns:
        The words, and what to tell the user about them ("" for nothing).

    Raises:
        UserError: if the env's arguments are impossible.
    """
    env = REGISTRY.get(str(config.get("env")))
    if env is None:
        return [], ""
    env_args = config.get("env_args") or {}
    name = env.task_name(env_args)
    words = [] if env_args.get("key") else [f"env_args.key={name}"]
    path = PLUGIN_CONFIG / "tuned" / f"{env.name}.yaml"
    if not (ours and config.get("tuned", True) and path.is_file()):
        return words, ""
    tuned = read_yaml(path)
    values = {**tuned["default"], **(tuned["tasks"].get(name) or {})}
    taken = [f"{key}={value}" for key, value in values.items() if key not in changes]
    whose = name if name in tuned["tasks"] else f"{env.name} in general, as {name} is not among them"
    return words + taken, f"the authors' settings for {whose} (tuned=False: without): {' '.join(taken)}"


def refuse_spaces(name: str, env_args: Mapping[str, Any]) -> None:
    """Stop a host's own algorithm before it meets action spaces that it does not know.

    Raises:
        UserError: names the agent and its space.
    """
    env = REGISTRY[name](**env_args)
    try:
        env.get_env_info()
    finally:
        env.close()
