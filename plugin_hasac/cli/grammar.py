"""The grammar of the command line: one function per command."""

from __future__ import annotations

import argparse
from typing import Any

from plugin_hasac import __version__

DESCRIPTION = "HASAC (Heterogeneous-Agent Soft Actor-Critic) for PyMARL-family frameworks."
EXAMPLES = """examples:
  hasac run --config=hasac --env-config=simple_spread
  hasac run --config=hasac --env-config=gymma with env_args.key=lbforaging:Foraging-8x8-2p-3f-v3 t_max=500000 seed=1
  hasac run --config=qmix --env-config=simple_spread with seed=1
  hasac configs
  hasac options

'run' is the default: 'hasac --config=…' is 'hasac run --config=…'.
"""
HOST_HELP = "'pymarlzooplus', or the path of a checkout of EPyMARL, PyMARL2 or PyMARL (default: %(default)s)"


def _run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="train or evaluate an algorithm on an env",
        description="Train or evaluate an algorithm on an env, through the host's own loop. Results land in ./results.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--config", required=True, metavar="ALG", help="algorithm: hasac, a variant, or one of the host's")
    run.add_argument("--env-config", required=True, metavar="ENV", help="env: one of the host's configs, or ours")
    run.add_argument("--host", default="pymarlzooplus", metavar="HOST", help=HOST_HELP)
    run.add_argument("--verbose", action="store_true", help="the host's own console output instead of a progress bar")
    run.add_argument("updates", nargs="*", metavar="with key=value …", help="config changes in sacred's syntax")


def _configs(commands: Any) -> None:
    configs = commands.add_parser("configs", help="list the algorithms and envs that can be run")
    configs.add_argument("--host", default="pymarlzooplus", metavar="HOST", help=HOST_HELP)


def _hosts(commands: Any) -> None:
    hosts = commands.add_parser(
        "hosts",
        help="look at a checkout of EPyMARL, PyMARL2 or PyMARL; put HASAC into it or take it out",
        description="Make 'python src/main.py --config=hasac …' work in a checkout, by two lines in its src/main.py.",
    )
    actions = hosts.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in {
        "check": "say what a checkout is, what works and what is missing",
        "install": "make 'python src/main.py --config=hasac …' work there",
        "uninstall": "restore every byte",
    }.items():
        parser_of_action = actions.add_parser(action, help=text, description=text)
        parser_of_action.add_argument("path", metavar="PATH", help="the checkout")
        if action == "install":
            parser_of_action.add_argument(
                "--force", action="store_true", help="even if it has changes that are not committed, or no git"
            )


def _bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="make the runs of a suite: algorithms x tasks x seeds",
        description="Make what is missing of a suite of runs; a second call goes on where the first was interrupted.",
    )
    bench.add_argument(
        "suite", metavar="SUITE", help="a YAML file (docs/benchmarking.md), or a shipped suite: ci, benchmark"
    )
    bench.add_argument("--folder", metavar="FOLDER", help="of the results (default: as the suite says)")
    bench.add_argument("--dry-run", action="store_true", help="list the runs, their states and their commands")
    bench.add_argument("--only", metavar="RUN", help="make one run, by its index or identity (see --dry-run)")
    bench.add_argument("--ray", metavar="ADDRESS", help="make the runs on an existing Ray cluster")
    bench.add_argument(
        "--slurm",
        nargs="?",
        const="print",
        choices=("print", "submit"),
        help="print the script of a Slurm array job with one run per task, or submit it",
    )


def _report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="tables, figures and a page from runs of any algorithm",
        description="Compare runs of any PyMARL-family host or of HARL, no matter which algorithm or who ran them.",
    )
    report.add_argument("results", nargs="+", help="folders with runs, or runs.json of an earlier report")
    report.add_argument(
        "--out", required=True, metavar="FOLDER", help="for tables, figures, report.html and JSON files"
    )
    report.add_argument("--at-step", type=int, help="env steps of the scores (default: what all complete runs reached)")
    report.add_argument(
        "--metric", default="return", help="return, win_rate, ep_length, or X of a logged test_X_mean (%(default)s)"
    )
    report.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="TASK=LOW:HIGH",
        help="possible scores of a task, to normalise by in aggregates (default: those of the compared runs)",
    )


def _regress(commands: Any) -> None:
    regress = commands.add_parser(
        "regress",
        help="compare runs with reference scores, for CI",
        description="Compare runs with reference scores, or (--record) make references from runs. Exit code: 0 no "
        "regression, 1 regression, 2 not enough data or wrong input.",
    )
    regress.add_argument("results", nargs="*", help="folders with runs, or runs.json of a report")
    regress.add_argument(
        "--reference", nargs="+", default=[], metavar="REF", help="files, or shipped ones by name, such as ci"
    )
    regress.add_argument(
        "--bar", action="store_true", help="compare all algorithms with the references, as bars: never a regression"
    )
    regress.add_argument("--algorithm", nargs="+", default=[], metavar="ALG", help="look only at these algorithms")
    regress.add_argument("--task", nargs="+", default=[], metavar="TASK", help="look only at these tasks")
    regress.add_argument("--min-seeds", type=int, default=3, help="fewer give no verdict (%(default)s)")
    regress.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    regress.add_argument("--json", metavar="FILE", help="write all numbers")
    recording = regress.add_argument_group("making references")
    recording.add_argument("--record", action="store_true", help="write references from runs instead of comparing")
    recording.add_argument("--out", metavar="FILE", help="the file to write")
    recording.add_argument("--command", dest="made_by", metavar="TEXT", help="what made the runs, as provenance")
    recording.add_argument("--commit", help="of this plugin when they were made (default: the one that runs now)")
    recording.add_argument("--metric", help="as hosts log it (test_return_mean)")
    recording.add_argument("--at-step", type=int, help="env steps of the scores (default: the last test of all runs)")
    recording.add_argument("--tolerance", help="drop to accept: a number, or a percentage as 3%%")
    recording.add_argument("--direction", help="higher-is-better (default) or lower-is-better")


def _qre(commands: Any) -> None:
    qre = commands.add_parser(
        "qre",
        help="the quantal response equilibria of a matrix game, and learners on it",
        description="Find all logit quantal response equilibria of a cooperative matrix game along a path of "
        "temperatures; write a table, figures, CSV and JSON.",
    )
    qre.add_argument("game", metavar="GAME", help="climbing, penalty, peaks, or a .yaml or .npy file with payoffs")
    qre.add_argument(
        "--alpha", default="0.3:30:40", help="temperatures: 1.5, a list 0.5,1,2 or a path FROM:TO:COUNT (%(default)s)"
    )
    qre.add_argument("--json", metavar="FILE", help="policies, values and residuals per temperature")
    qre.add_argument("--out", metavar="FOLDER", help="of figures and CSV (default: results/qre/GAME)")
    qre.add_argument("--start", metavar="P,P,…", help="where the learning curves start, for every agent (uniform)")
    qre.add_argument(
        "--compare", action="store_true", help="also train HASAC, MASAC and the default host's baselines on it"
    )
    qre.add_argument("--seeds", type=int, default=1, help="runs of each with --compare (%(default)s)")


def _options(commands: Any) -> None:
    commands.add_parser("options", help="explain every hyper-parameter of HASAC")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        "hasac", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"hasac {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_run, _configs, _hosts, _bench, _report, _regress, _qre, _options):
        add(commands)
    return top
