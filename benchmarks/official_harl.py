r"""Train the official HASAC (a checkout of PKU-MARL/HARL) on this plugin's envs, for curves side by side with ours.

The official runner, networks, replay and settings (its own ``tuned_configs``) run unmodified; only the envs are handed
in from here, so that both sides meet the same robot or scenario, step limit, reward, random numbers of the library and
number of test episodes. Its MuJoCo wrapper standardises every observation and state vector, so that is kept.

Needs, beside this plugin: ``pip install tensorboardX setproctitle absl-py`` and the checkout.

    python benchmarks/official_harl.py --harl HARL --env mamujoco --seed 1 --steps 1000000 --out run.json \
        scenario=HalfCheetah agent_conf=2x3
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from gymnasium.spaces import Box
from harl_runner import make_runner

from plugin_hasac.bench.records import Record, write_records
from plugin_hasac.envs import REGISTRY

OFFICIAL_ENVS = {"mamujoco": "mamujoco", "mpe": "pettingzoo_mpe"}
CLOCK = 5000  # env steps between two calls of the official evaluation; most are skipped


class OfficialEnv:
    """One of this plugin's envs behind the interface of the official code's envs.

    Args:
        env: the env.
        standardize: shift and scale every observation and state vector to mean 0 and standard deviation 1.
    """

    def __init__(self, env: Any, standardize: bool) -> None:
        self.env, self.standardize = env, standardize
        self.n_agents = env.n_agents
        self.observation_space = [Box(-np.inf, np.inf, (size,)) for size in env.observation_sizes]
        self.share_observation_space = [Box(-np.inf, np.inf, (env.state_size,))] * env.n_agents
        self.action_space = list(env.action_spaces)
        self.discrete = hasattr(self.action_space[0], "n")

    def _shown(self) -> tuple[list[np.ndarray], list[np.ndarray], Any]:
        observations, state = self.env.observations(), self.env.get_state()
        if self.standardize:
            observations, state = (
                [(obs - obs.mean()) / obs.std() for obs in observations],
                ((state - state.mean()) / state.std()),
            )
        avail = [[1] * int(space.n) for space in self.action_space] if self.discrete else None
        return observations, [state] * self.n_agents, avail

    def reset(self) -> tuple[list[np.ndarray], list[np.ndarray], Any]:
        """Observations, states and available actions, one per agent."""
        self.env.reset()
        return self._shown()

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        """Observations, states, rewards, dones, infos and available actions."""
        reward, over, info = self.env.step([int(a[0]) for a in actions] if self.discrete else list(actions))
        observations, states, avail = self._shown()
        infos = [{"bad_transition": info["episode_limit"]} for _ in range(self.n_agents)]
        return observations, states, [[reward]] * self.n_agents, [over] * self.n_agents, infos, avail

    def close(self) -> None:
        """Close the env."""
        self.env.close()


def official_settings(checkout: Path, env_name: str, task: str) -> dict[str, Any]:
    """The algorithm's settings that the checkout ships for a task.

    Raises:
        FileNotFoundError: if it has none.
    """
    head, tail = task.rsplit("-", 1)
    pattern = f"{head}[-_]v*-{tail}" if not head.startswith("ManySegment") else f"manyagent_swimmer-{tail}"
    found = sorted((checkout / "tuned_configs" / OFFICIAL_ENVS[env_name]).glob(f"{pattern}/hasac/config.json"))
    if not found:
        raise FileNotFoundError(f"{checkout} has no tuned settings of hasac for {task}")
    return json.loads(found[0].read_text())["algo_args"]


def train(args: argparse.Namespace) -> None:
    """Run the official training; its record is written anew after every test, so that an early end loses little."""
    env_class = REGISTRY[args.env]
    env_args = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in args.env_args)}
    task = env_class.task_name(env_args)
    settings = official_settings(args.harl, args.env, task)
    envs, test_envs = settings["train"]["n_rollout_threads"], args.test_envs
    settings["seed"]["seed"] = args.seed
    settings["device"] = {"cuda": args.cuda, "cuda_deterministic": True, "torch_threads": args.threads}
    settings["train"] |= {
        "num_env_steps": args.steps - settings["train"]["warmup_steps"],  # the official count leaves the warm-up out
        "eval_interval": CLOCK // envs,
    }
    settings["eval"] |= {"n_eval_rollout_threads": test_envs, "eval_episodes": args.test_episodes}

    def vector(count: int, first_seed: int) -> Any:
        from harl.envs.env_wrappers import ShareDummyVecEnv

        def make(seed: int) -> OfficialEnv:
            return OfficialEnv(env_class(**env_args, seed=seed), standardize=args.env == "mamujoco")

        return ShareDummyVecEnv([lambda seed=first_seed + i: make(seed) for i in range(count)])

    def timed(runner: type) -> type:
        class Runner(runner):  # type: ignore[misc]
            """The official runner, which tests every ``--test-interval`` env steps."""

            def eval(self, step: int) -> None:
                if step % args.test_interval == 0:
                    super().eval(step)
                    write_records([record()], args.out)

            def save(self) -> None:
                """Models are not needed."""

        return Runner

    def record() -> Record:
        log = next(folder.rglob("progress.txt")).read_text()
        tests = [line.split(",") for line in log.split()]
        return Record(
            algorithm="hasac (official)",
            task=task,
            seed=args.seed,
            steps=[int(test[0]) for test in tests],
            test_returns=[float(test[1].strip("[]")) for test in tests],
            settings={
                "t_max": args.steps,
                "test_interval": args.test_interval,
                "test_nepisode": args.test_episodes,
                "batch_size_run": envs,
                "env_args": env_args,
                "use_cuda": args.cuda,
                "official": settings["algo"] | settings["train"] | settings["model"],
                "seconds": round(time.perf_counter() - started),
            },
            machine={"python": platform.python_version(), "threads": args.threads},
        )

    official_env_args = {"scenario": task, "agent_conf": "", "continuous_actions": False, **env_args}
    runner, folder = make_runner(
        args.harl,
        OFFICIAL_ENVS[args.env],
        official_env_args,
        settings,
        envs=vector,
        test_envs=lambda count, seed: vector(count, seed + 1000),
        wrap=timed,
    )
    started = time.perf_counter()
    runner.run()
    runner.close()
    shutil.rmtree(folder)


def main() -> None:
    """Parse the command line, train, write one record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harl", type=Path, required=True, help="checkout of PKU-MARL/HARL")
    parser.add_argument("--env", choices=sorted(OFFICIAL_ENVS), required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1_000_000, help="env steps, warm-up included")
    parser.add_argument("--test-interval", type=int, default=50_000, help=f"env steps, a multiple of {CLOCK}")
    parser.add_argument("--test-episodes", type=int, default=20)
    parser.add_argument("--test-envs", type=int, default=20, help="parallel envs of a test")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the record, as 'hasac report' reads it")
    parser.add_argument("env_args", nargs="*", metavar="KEY=VALUE", help="the env's arguments")
    args = parser.parse_args()
    if args.test_interval % CLOCK:
        parser.error(f"--test-interval: {args.test_interval} is not a multiple of {CLOCK}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    train(args)


if __name__ == "__main__":
    main()
