"""Multi-Agent MuJoCo (Peng et al., 2021): the joints of a robot shared out among agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from plugin_hasac.envs.base import PluginEnv, required
from plugin_hasac.errors import UserError, did_you_mean

PACKAGES = "gymnasium-robotics==1.4.2 mujoco==3.3.7"
SCENARIOS = (
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "Pusher", "Reacher", "Swimmer", "Walker2d"),
    *("CoupledHalfCheetah", "ManySegmentAnt", "ManySegmentSwimmer"),
)
OTHER_NAMES = {"manyagent_swimmer": "ManySegmentSwimmer", "manyagent_ant": "ManySegmentAnt"}
# Joints in the order in which the paper's factorisations hand them out, where it is not the library's.
JOINT_ORDER = {
    "HalfCheetah": ["bfoot", "bshin", "bthigh", "ffoot", "fshin", "fthigh"],
    "Ant": ["hip1", "ankle1", "hip2", "ankle2", "hip3", "ankle3", "hip4", "ankle4"],
}


class MAMuJoCo(PluginEnv):
    """A robot of gymnasium (version 5 of its MuJoCo envs) whose actuators are shared out among agents.

    The state is the whole robot's observation; the reward is the robot's, once for the team.

    Args:
        scenario: one of :data:`SCENARIOS`, or the name that the original benchmark gave it.
        agent_conf: ``2x3`` is two agents with three joints each. Factorisations that the library lacks (``17x1``,
            ``8x1``, ``3x2`` …) are made by handing out the joints in order.
        agent_obsk: an agent sees joints up to this many joints away from its own: 0, 1 or 2; or ``"all"``: the whole
            robot's observation and the agent's own one-hot id, which is what published results of MAPPO, HAPPO and
            HASAC were made with.
        episode_limit: steps per episode.
        map_name: the name under which hosts sort results.
        seed: of the first episode; later ones follow from it.
        robot_args: further arguments of the gymnasium env.

    Raises:
        UserError: for an impossible argument, or if a package is not installed.
    """

    name = "mamujoco"

    def __init__(
        self,
        scenario: str = "HalfCheetah",
        agent_conf: str = "2x3",
        agent_obsk: int | str = "all",
        episode_limit: int = 1000,
        map_name: str | None = None,
        seed: int | None = None,
        **robot_args: Any,
    ) -> None:
        scenario = _scenario(scenario)
        if agent_obsk not in (0, 1, 2, "all") or isinstance(agent_obsk, bool):
            raise UserError(f"env_args.agent_obsk: {agent_obsk!r} is not 0, 1, 2 or all.")
        self.sees_all = agent_obsk == "all"
        library = required("gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi", self.name, PACKAGES)
        required("mujoco", self.name, PACKAGES)
        factorization = _factorization(scenario, str(agent_conf))
        if scenario != "CoupledHalfCheetah":
            robot_args["max_episode_steps"] = episode_limit
        elif episode_limit > 1000:
            raise UserError(f"env_args.episode_limit: {episode_limit}; CoupledHalfCheetah allows at most 1000.")
        try:
            self.env = library.MultiAgentMujocoEnv(
                scenario,
                str(agent_conf),
                agent_obsk=0 if self.sees_all else agent_obsk,  # its None makes one agent of all
                agent_factorization=factorization,
                **robot_args,
            )
        except TypeError as error:
            raise UserError(f"env_args: MuJoCo's {scenario} does not take {robot_args}: {error}") from error
        robot = self.env.single_agent_env.action_space
        joints = [[node.act_ids for node in part] for part in self.env.agent_action_partitions]
        # Built from the robot's own bounds: the library gives every joint those of the first.
        self.action_spaces = [Box(robot.low[own], robot.high[own], dtype=np.float32) for own in joints]
        self._joints = np.concatenate(joints)
        self._low, self._high = robot.low[self._joints], robot.high[self._joints]
        self._ids = np.eye(len(self.action_spaces), dtype=np.float32)
        self.episode_limit = episode_limit
        self._seed = seed
        _, state = self.reset()
        self.state_size = len(state)
        self.observation_sizes = [len(obs) for obs in self._observations]
        self._seed = seed  # the first episode is still to come

    @classmethod
    def task_name(cls, env_args: Mapping[str, Any]) -> str:
        """Scenario and factorisation, as in ``HalfCheetah-2x3``."""
        return f"{_scenario(str(env_args.get('scenario') or 'HalfCheetah'))}-{env_args.get('agent_conf') or '2x3'}"

    def reset(self, seed: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        """Begin an episode."""
        seed = self._seed if seed is None else seed
        self._seed, self._t = None, 0  # from now on the robot's own generator goes on
        if self.sees_all:
            self._show_all(self.env.single_agent_env.reset(seed=seed)[0])
        else:
            self._show_own(self.env.reset(seed=seed)[0])
        return self._observations, self._state

    def step(self, actions: Sequence[Any]) -> tuple[float, bool, dict[str, Any]]:
        """See :class:`PluginEnv`; the robot's actuators are moved within their bounds."""
        within = np.clip(np.concatenate(actions), self._low, self._high)
        if self.sees_all:  # the library would work out everybody's own view, which takes as long as the simulation
            whole = np.empty_like(within)
            whole[self._joints] = within
            shown, reward, terminated, truncated, _ = self.env.single_agent_env.step(whole)
            self._show_all(shown)
        else:
            parts = np.split(within, np.cumsum([len(own) for own in actions])[:-1])
            observations, rewards, ends, cuts, _ = self.env.step(dict(zip(self.env.possible_agents, parts)))
            self._show_own(observations)
            reward, terminated, truncated = (next(iter(each.values())) for each in (rewards, ends, cuts))
        self._t += 1
        cut_off = not terminated and (bool(truncated) or self._t >= self.episode_limit)
        return float(reward), bool(terminated) or cut_off, {"episode_limit": cut_off}

    def observations(self) -> list[np.ndarray]:
        """See :class:`PluginEnv`."""
        return self._observations

    def get_state(self) -> np.ndarray:
        """The robot's observation."""
        return self._state

    def _show_all(self, state: np.ndarray) -> None:
        self._state = np.asarray(state, dtype=np.float32)
        self._observations = [np.concatenate([self._state, own_id]) for own_id in self._ids]

    def _show_own(self, observations: Mapping[str, np.ndarray]) -> None:
        self._state = np.asarray(self.env.state(), dtype=np.float32)
        self._observations = list(observations.values())

    def close(self) -> None:
        """Close the simulation."""
        self.env.close()


def _scenario(name: str) -> str:
    """The library's name of a scenario; the version suffix of old names (``Ant-v2``) is dropped."""
    plain = name.split("-v", maxsplit=1)[0]
    plain = OTHER_NAMES.get(plain, plain)
    if plain not in SCENARIOS:
        raise UserError(
            f"env_args.scenario: unknown MuJoCo scenario '{name}'.{did_you_mean(plain, SCENARIOS)} "
            f"Expected one of: {', '.join(SCENARIOS)}."
        )
    return plain


def _factorization(scenario: str, conf: str) -> dict[str, Any] | None:
    """Custom factorisation ``N x M`` for a robot with ``N * M`` joints, or ``None`` if the library has this one.

    Raises:
        UserError: if the robot's joints cannot be shared out so.
    """
    library = required("gymnasium_robotics.envs.multiagent_mujoco.obsk", "mamujoco", PACKAGES)
    sizes = [int(word) for word in conf.split("x")] if conf.replace("x", "").isdigit() else []
    if scenario.startswith("ManySegment"):
        if len(sizes) != 2:
            raise UserError(f"env_args.agent_conf: '{conf}'; {scenario} expects agents x segments, such as 10x2.")
        return None  # any number of segments
    (nodes,), edges, common = library.get_parts_and_edges(scenario, None)
    if len(sizes) == 2 and sizes[0] * sizes[1] == len(nodes) and not _known(library, scenario, conf):
        order = JOINT_ORDER.get(scenario)
        if order:
            nodes = sorted(nodes, key=lambda node: order.index(str(node)))
        parts = [tuple(nodes[start : start + sizes[1]]) for start in range(0, len(nodes), sizes[1])]
        return {"partition": parts, "edges": edges, "globals": common}
    if not _known(library, scenario, conf):
        total = len(nodes)
        ways = [f"{n}x{total // n}" for n in range(1, total + 1) if total % n == 0]
        raise UserError(
            f"env_args.agent_conf: '{conf}' does not share out the {total} joints of {scenario}; expected "
            f"{', '.join(ways)}, or a named factorisation of gymnasium-robotics."
        )
    return None


def _known(library: Any, scenario: str, conf: str) -> bool:
    try:
        library.get_parts_and_edges(scenario, conf)
    except Exception:  # the library raises nothing more specific
        return False
    return True
