"""``hasac run``: check the request, hand over to the host's loop, sum up."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from plugin_hasac.bench.curves import plot_learning_curve
from plugin_hasac.cli.progress import Progress
from plugin_hasac.cli.task_settings import refuse_spaces, task_settings
from plugin_hasac.config import HasacConfig, check_keys
from plugin_hasac.envs import REGISTRY as OUR_ENVS
from plugin_hasac.errors import RunFailedError, UserError, did_you_mean
from plugin_hasac.hosts import find_host
from plugin_hasac.hosts.base import Host, merged, read_yaml

LEARNER = "hasac_learner"


def run(host_name: str, alg: str, env: str, updates: Sequence[str], *, verbose: bool) -> None:
    """Train or evaluate.

    Args:
        host_name: the framework that trains.
        alg: name of an algorithm's config.
        env: name of an env's config.
        updates: ``with key=value …`` in sacred's syntax.
        verbose: leave the console to the host instead of showing a progress bar.

    Raises:
        UserError: if anything that was asked for does not exist or cannot be.
        RunFailedError: if the run breaks off.
    """
    host = find_host(host_name)
    params = [f"--config={host.host_argument('algs', alg)}", f"--env-config={host.host_argument('envs', env)}"]
    words = [word for word in updates if word != "with"]
    config, additions, notice = check(host, alg, env, words)
    if notice:
        print(f"hasac: {notice}", file=sys.stderr)
    if additions or words:
        params += ["with", *additions, *words]
    if verbose:
        with _clear_failures(None):
            host.launch(params, None)
        return
    with _host_console() as (terminal, log), _clear_failures(log), Progress(terminal, config) as progress:
        host.launch(params, progress)
    summary(host, config, progress)


def check(host: Host, alg: str, env: str, words: Sequence[str]) -> tuple[dict[str, Any], list[str], str]:
    """Put the whole config together as the host will, and refuse what cannot work.

    Returns:
        The merged config, what has to be added to the given words for the host to arrive at it, and what to tell the
        user about that.

    Raises:
        UserError: for an unknown config, key or env, or an impossible value.
    """
    from sacred.arg_parser import get_config_updates

    env_values = read_yaml(host.config_path("envs", env))
    alg_values = read_yaml(host.config_path("algs", alg))
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
        HasacConfig.from_mapping(config)
    name, names = str(config.get("env")), host.env_names()  # last, since it imports the host
    if name not in names:
        raise UserError(
            f"env '{name}' is not in the host's registry.{did_you_mean(name, names)} "
            f"Expected one of: {', '.join(sorted(names))}."
        )
    if name in OUR_ENVS and not ours:
        refuse_spaces(name, env_args)
    return config, additions, notice


def summary(host: Host, config: dict[str, Any], progress: Progress) -> None:
    """Print where the results are and how the run ended."""
    folder = host.run_folder
    if folder is None:
        return
    lines = []
    if progress.tests:
        t_env, value = progress.tests[-1]
        how = f"{'greedy' if config['test_greedy'] else 'sampled'}, {config['test_nepisode']} episodes"
        lines.append(f"final test return  {value:.2f}  ({how}, at step {t_env:,})")
    if len(progress.tests) > 1:
        figure = folder / "learning_curve.png"
        plot_learning_curve(progress.tests, f"{config['name']} on {task_name(config)}", figure)
        lines.append(f"learning curve     {figure}")
    lines.append(f"sacred logs        {folder}")
    print("\n".join(lines))


def task_name(config: dict[str, Any]) -> str:
    """The name by which hosts sort a task's results."""
    env_args = config["env_args"]
    return str(env_args.get("map_name") or env_args.get("key"))


@contextmanager
def _host_console() -> Iterator[tuple[IO[str], Path]]:
    """Send all that the host and its workers print to a file (sacred keeps its own copy); yield the real stderr.

    Works on file descriptors, since hosts have sacred capture them and env processes inherit them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    descriptor, name = tempfile.mkstemp(prefix="hasac-", suffix=".log")
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        with os.fdopen(os.dup(saved[1]), "w", buffering=1) as terminal:
            yield terminal, Path(name)
    except RunFailedError:
        raise  # and keep the file, which the message names
    except BaseException:
        Path(name).unlink()
        raise
    else:
        Path(name).unlink()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, descriptor_saved in zip((1, 2), saved):
            os.dup2(descriptor_saved, target)
            os.close(descriptor_saved)
        os.close(descriptor)


@contextmanager
def _clear_failures(log: Path | None) -> Iterator[None]:
    """Turn what escapes from the host into one line.

    Hosts wrap exceptions, and sacred turns them into ``SystemExit``; the original is found along the chain.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        chain: list[BaseException] = []
        link: BaseException | None = error
        while link is not None and link not in chain:
            chain.append(link)
            link = link.__cause__ or link.__context__
        for exception in chain:
            if isinstance(exception, UserError):
                raise exception from None
        if isinstance(error, SystemExit) and not error.code:
            return
        if log is None:
            raise
        origin = chain[-1]
        what = f"{type(origin).__name__}: {' '.join(str(origin).split())}"
        raise RunFailedError(f"the run failed with {what} (console output: {log})") from None
