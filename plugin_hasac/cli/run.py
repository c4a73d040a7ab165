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
from plugin_hasac.bench.tracking import HOST_LOG, ProgressFile, run_folder
from plugin_hasac.cli.progress import Progress
from plugin_hasac.errors import RunFailedError, UserError
from plugin_hasac.hosts import find_host
from plugin_hasac.hosts.base import Host, Observer
from plugin_hasac.hosts.request import check


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
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # pygame's SDL would swallow SIGTERM
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
    folder = run_folder()
    with (
        _host_console(folder) as (terminal, log),
        _clear_failures(log),
        Progress(terminal, config) as progress,
        _followed(progress, config, host, folder) as observer,
    ):
        host.launch(params, observer)
    summary(host, config, progress)


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
def _followed(progress: Progress, config: dict[str, Any], host: Host, folder: Path | None) -> Iterator[Observer]:
    """The run's observer, which also keeps a file up to date where a folder for it was asked for."""
    if folder is None:
        yield progress
        return
    file = ProgressFile(folder, int(config["t_max"]), lambda: host.run_folder)

    def observer(key: str, value: Any, t_env: int) -> None:
        progress(key, value, t_env)
        file(key, value, t_env)

    try:
        yield observer
    finally:
        file.write()


@contextmanager
def _host_console(folder: Path | None) -> Iterator[tuple[IO[str], Path]]:
    """Send all that the host and its workers print to a file (sacred keeps its own copy); yield the real stderr.

    Works on file descriptors, since hosts have sacred capture them and env processes inherit them.

    Args:
        folder: of the file; None for that of temporary files.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    if folder is None:
        descriptor, name = tempfile.mkstemp(prefix="hasac-", suffix=".log")
    else:
        name = str(folder / HOST_LOG)
        descriptor = os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
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
