"""HARL's logs (PKU-MARL/HARL): ``ENV/TASK/ALGO/EXPERIMENT/seed-00001-DATE/{config.json, progress.txt}``.

A line of ``progress.txt`` is one test: env steps and mean return, then what the runner and the env add. Off-policy
runners add the mean episode length; both kinds add the win rate on SMAC and the score rate on football, last.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from plugin_hasac.bench.records import Record, checked
from plugin_hasac.errors import UserError

RATES = {"smac": "battle_won_mean", "smacv2": "battle_won_mean", "football": "score_rate_mean"}


def read_harl(folder: Path) -> Record:
    """Read one run of HARL.

    Raises:
        UserError: if a file is missing or damaged, or holds no test.
    """
    try:
        text = (folder / "progress.txt").read_text()
        config = json.loads((folder / "config.json").read_text())
        main, algo_args, env_args = config["main_args"], config["algo_args"], config["env_args"]
        if not algo_args["eval"]["use_eval"]:
            raise UserError(
                f"{folder} has no tests: it ran with use_eval False, so progress.txt holds training returns."
            )
        # Each test is flushed as one line, so a last line without its end was cut off while it was written.
        rows = [
            [float(cell.strip(" []")) for cell in line.split(",")] for line in text.split("\n")[:-1] if line.strip()
        ]
        if not rows:
            raise UserError(f"{folder} has no tests: progress.txt has no full line.")
        columns = np.array(rows).T.tolist()
        steps = [int(step) for step in columns[0]]
        return checked(
            Record(
                algorithm=f"{main['algo']} (HARL)",
                task=_task(folder, main["algo"], env_args),
                seed=int(algo_args["seed"]["seed"]),
                steps=steps,
                test_returns=columns[1],
                settings={
                    "env": main["env"],
                    "t_max": algo_args["train"]["num_env_steps"],
                    "test_nepisode": algo_args["eval"]["eval_episodes"],
                    "batch_size_run": algo_args["train"]["n_rollout_threads"],
                    "env_args": env_args,
                    "use_cuda": algo_args["device"]["cuda"],
                },
                machine={},
                metrics=dict(zip(_extra_columns(main["env"], len(columns) - 2), columns[2:])),
                status=_status(steps, int(algo_args["train"]["num_env_steps"])),
                host="HARL",
                source=str(folder),
            )
        )
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{folder} is not a readable HARL run: {type(error).__name__} {error}") from error


def _extra_columns(env: str, count: int) -> list[str]:
    """Names of the numbers behind steps and return."""
    rate = [RATES[env]] if env in RATES else []
    known = {0: [], len(rate): rate, len(rate) + 1: ["ep_length_mean", *rate]}
    if count not in known:
        raise ValueError(f"{count + 2} numbers a line, which is not HARL's format for {env}")
    return known[count]


def _task(folder: Path, algorithm: str, env_args: dict[str, str]) -> str:
    """HARL's own name of the task, which its layout holds; the env's arguments if the folder was moved."""
    if folder.parent.parent.name == algorithm:
        return folder.parent.parent.parent.name
    keys = [key for key in ("map_name", "scenario", "env_name", "task") if env_args.get(key)]
    if not keys:
        raise ValueError("neither its folder nor env_args names the task")
    return str(env_args[keys[0]])


def _status(steps: list[int], num_env_steps: int) -> str:
    """HARL does not say how a run ended; one that stops more than a test's distance early did not finish."""
    interval = max(np.diff([0, *steps]))
    return "COMPLETED" if steps[-1] + interval > num_env_steps else "UNFINISHED"
