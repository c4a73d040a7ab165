"""The command ``hasac``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable

from plugin_hasac.cli.grammar import parser
from plugin_hasac.errors import RunFailedError, UserError
from plugin_hasac.hosts import compat

warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # sacred's import; nothing a user can mend
compat.restore_imp()  # here, because the env workers of hosts import this module and nothing else of ours

# ------------------------------------------------------------ commands; their modules are imported when asked for


def _run(options: argparse.Namespace) -> None:
    from plugin_hasac.cli.run import run

    run(options.host, options.config, options.env_config, options.updates, verbose=options.verbose)


def _configs(options: argparse.Namespace) -> None:
    from plugin_hasac.cli.listing import list_configs

    list_configs(options.host)


def _hosts(options: argparse.Namespace) -> None:
    from plugin_hasac.cli import hosts

    if options.action == "install":
        hosts.install(options.path, force=options.force)
    else:
        getattr(hosts, options.action)(options.path)


def _bench(options: argparse.Namespace) -> None:
    from plugin_hasac.cli.bench import bench

    asked = {key: value for key, value in vars(options).items() if key not in ("command", "suite")}
    bench(options.suite, **asked)


def _report(options: argparse.Namespace) -> None:
    from plugin_hasac.cli.report import report

    report(options.results, options.out, options.at_step, options.metric, options.range)


def _regress(options: argparse.Namespace) -> None:
    from plugin_hasac.cli.regress import regress

    sys.exit(regress(options))


def _qre(options: argparse.Namespace) -> None:
    from plugin_hasac.cli.qre import qre

    values = (options.game, options.alpha, options.out, options.json, options.start, options.seeds)
    qre(*values, comparison=options.compare)


def _options(_options: argparse.Namespace) -> None:
    from plugin_hasac.cli.listing import list_options

    list_options()


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "configs": _configs,
    "hosts": _hosts,
    "bench": _bench,
    "report": _report,
    "regress": _regress,
    "qre": _qre,
    "options": _options,
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (the run failed, or a regression) or 2 (the input is wrong)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0].startswith(("--config", "--env-config", "--verbose", "--host")):
        arguments.insert(0, "run")
    options = parser().parse_args(arguments)
    try:
        COMMANDS[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads this has read enough, as in "hasac configs | head"
        if options.command == "run":
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)  # as rich does
    except (UserError, RunFailedError) as error:
        print(f"hasac: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("hasac: interrupted", file=sys.stderr)
        sys.exit(130)
