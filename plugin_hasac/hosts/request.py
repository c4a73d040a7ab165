"""What a user asks a host to do: put together as the host will, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plugin_hasac.config import HasacConfig, check_keys
from plugin_hasac.envs import REGISTRY as OUR_ENVS
from plugin_hasac.errors import UserError, did_you_mean
from plugin_hasac.hosts.base import PLUGIN_CONFIG, Host, merged, read_yaml
from plugin_hasac.mehaml.registry import make_drift, make_neighbourhood

LEARNER = "hasac_learner"


def check(host: Host, alg: str, env: str, words: Sequence[str]) -> tuple[dict[str, Any], list[str], str]:
    """Put the whole config together as the host will, and refuse what cannot work.

    Returns:
        The merged config, what has to be added to the given words for the host to arrive at it, and what to tell the
        user about that.

    Raises:
        UserError: for an unknown config, key or env, or an impossible value.
    """
    from sacred.arg_parser import get_config_updates

    env_values = host.config_values("envs", env)
    alg_values = host.config_values("algs", alg)
    config = merged(merged(host.defaults, env_values), alg_values)
    ours = config.get("learner") == LEARNER
    known = set(host.defaults) | set(env_values) | host.keys_read_in_code | {"name", "learner", "seed"}
    if ours:
        known |= set(HasacConfig.__dataclass_fields__)
        check_keys(alg_values, known, f"in {host.config_path('algs', alg)}")
    known |= set(alg_values)
    for word in words:
        if "=" not in word and not Path(word).is_file():
            raise UserError(f"'{word}' is not understood; expected key=value after 'with'.")
    changes, _files = get_config_updates(words)
    check_keys(changes, known, "after 'with'")
    missing = [key for key in changes if ours and key in HasacConfig.__dataclass_fields__ and key not in config]
    if missing:  # sacred takes no update of a key that no YAML file has
        raise UserError(f"{missing[0]}: set it in {host.config_path('algs', alg)}, which does not have this key yet.")
    additions, notice = task_settings(merged(config, changes), changes, ours)
    config = merged(merged(config, get_config_updates(additions)[0]), changes)
    env_args = config.get("env_args") or {}
    if env_args.get("map_name") is None and env_args.get("key") is None:
        raise UserError(
            f"--env-config {env} leaves open which task: add 'with env_args.key=…' (for example mpe:SimpleSpread-3-v0)."
        )
    for key in ("t_max", "batch_size_run", "test_interval", "test_nepisode"):
        if not isinstance(config[key], (int, float)) or config[key] <= 0:
            raise UserError(f"{key}: {config[key]!r} is not a positive number.")
    checkpoint = config.get("checkpoint_path")
    if checkpoint and not (Path(checkpoint).is_dir() and any(p.name.isdigit() for p in Path(checkpoint).iterdir())):
        raise UserError(
            f"checkpoint_path: {checkpoint} is not a 'models' folder of an earlier run (with one folder per step)."
        )
    if ours:
        _check_ours(config, changes, {**env_values, **alg_values})
    name, names = str(config.get("env")), host.env_names()  # last, since it imports the host
    if name not in names:
        raise UserError(
            f"env '{name}' is not in the host's registry.{did_you_mean(name, names)} "
            f"Expected one of: {', '.join(sorted(names))}."
        )
    if name in OUR_ENVS and not ours:
        refuse_spaces(name, env_args)
    return config, additions, notice


def _check_ours(config: Mapping[str, Any], changes: Mapping[str, Any], in_yaml: Mapping[str, Any]) -> None:
    """What only HASAC asks for. Raises UserError."""
    hasac = HasacConfig.from_mapping(config)
    for key in ("drift_args", "neighbourhood_args"):
        own = in_yaml.get(key) or {}
        check_keys(changes.get(key) or {}, set(own), f"in {key}, which has {', '.join(own) or 'none'} in its YAML")
    make_drift(hasac.drift, hasac.drift_args)
    make_neighbourhood(hasac.neighbourhood, hasac.neighbourhood_args)
    if not config.get("common_reward", True):
        raise UserError("common_reward: False gives every agent a reward of its own; HASAC is cooperative: use True.")


def task_settings(config: Mapping[str, Any], changes: Mapping[str, Any], ours: bool) -> tuple[list[str], str]:
    """Words in sacred's syntax that complete a request: the task's name, and the authors' settings for it.

    Args:
        config: everything merged so far.
        changes: what was given on the command line; never overridden.
        ours: whether the algorithm is of this plugin, and so may take the authors' settings.

    Returns:
        The words, and what to tell the user about them ("" for nothing).

    Raises:
        UserError: if the env's arguments are impossible.
    """
    env, env_args = str(config.get("env")), config.get("env_args") or {}
    name = OUR_ENVS[env].task_name(env_args) if env in OUR_ENVS else str(env_args.get("map_name"))
    words = [f"env_args.map_name={name}"] if env in OUR_ENVS and not env_args.get("map_name") else []
    path = PLUGIN_CONFIG / "tuned" / f"{env}.yaml"
    if not (ours and config.get("tuned", True) and path.is_file()):
        return words, ""
    tuned = read_yaml(path)
    values = {**tuned["default"], **(tuned["tasks"].get(name) or {})}
    taken = [f"{key}={value}" for key, value in values.items() if key not in changes]
    if not taken:
        return words, ""
    whose = name if name in tuned["tasks"] else f"{env} in general, as {name} is not among them"
    return words + taken, f"the authors' settings for {whose} (tuned=False: without): {' '.join(taken)}"


def refuse_spaces(name: str, env_args: Mapping[str, Any]) -> None:
    """Stop a host's own algorithm before it meets action spaces that it does not know.

    Raises:
        UserError: names the agent and its space.
    """
    env = OUR_ENVS[name](**env_args)
    try:
        env.get_env_info()
    finally:
        env.close()
