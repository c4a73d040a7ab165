"""The stand-in's battles: units that move, shoot, heal and die, against a scripted enemy."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

LOOPS_PER_SECOND = 22.4
ALLY, ENEMY = 1, 2
ASLEEP = 8  # game loops before a new unit acts, so that everybody is seen alive once
FIRST_OWN_TYPE = 2000  # SMAC's maps define unit types of their own for the allies, behind all of the game's
UNIT_TYPES = FIRST_OWN_TYPE + 9  # SMACv2's flat map defines nine


@dataclass(frozen=True)
class Kind:
    """What the stand-in knows about a kind of unit (rounded from the game; per second where it is a rate)."""

    type_id: int
    health: float
    shield: float
    speed: float
    reach: float
    damage: float
    cooldown: float
    heals: bool = False


KINDS = {
    "baneling": Kind(9, 30, 0, 3.5, 0.25, 16, 1.0),
    "colossus": Kind(4, 200, 150, 3.15, 7, 20, 1.07),
    "hydralisk": Kind(107, 90, 0, 3.15, 5, 12, 0.59),
    "marauder": Kind(51, 125, 0, 3.15, 6, 10, 1.07),
    "marine": Kind(48, 45, 0, 3.15, 5, 6, 0.61),
    "medivac": Kind(54, 150, 0, 3.5, 4, 12.6, 1.0, heals=True),
    "stalker": Kind(74, 80, 80, 4.13, 6, 13, 1.34),
    "zealot": Kind(73, 100, 50, 3.15, 0.1, 16, 0.86),
    "zergling": Kind(105, 35, 0, 4.13, 0.1, 5, 0.5),
    "spine_crawler": Kind(98, 300, 0, 0, 7, 25, 1.32),
}
KIND_OF_TYPE = {kind.type_id: name for name, kind in KINDS.items()}
# SMACv2's order of its own types; SMAC numbers the kinds of a map in the same (alphabetical) order.
OWN_TYPES = ("baneling", "colossus", "hydralisk", "marauder", "marine", "medivac", "stalker", "zealot", "zergling")
LETTERS = {
    "m": "marine",
    "s": "stalker",
    "z": "zealot",
    "h": "hydralisk",
    "c": "colossus",
    "zg": "zergling",
    "sc": "spine_crawler",
}
SPECIAL = {  # teams that a map's name does not spell out
    "MMM": ({"marauder": 2, "marine": 7, "medivac": 1}, {"marauder": 2, "marine": 7, "medivac": 1}),
    "MMM2": ({"marauder": 2, "marine": 7, "medivac": 1}, {"marauder": 3, "marine": 8, "medivac": 1}),
    "corridor": ({"zealot": 6}, {"zergling": 24}),
    "so_many_baneling": ({"zealot": 7}, {"baneling": 32}),
    "bane_vs_bane": ({"baneling": 4, "zergling": 20}, {"baneling": 4, "zergling": 20}),
}
Team = dict[str, int]


def teams(map_name: str) -> tuple[Team, Team] | None:
    """Allies and enemies of a SMAC map; ``None`` for a map on which units are created one by one (SMACv2)."""
    if map_name in SPECIAL:
        return SPECIAL[map_name]
    sides = [
        {LETTERS[letters]: int(count) for count, letters in re.findall(r"(\d+)(zg|sc|[mszhc])", side)}
        for side in map_name.split("_vs_")
    ]
    return (sides[0], sides[-1]) if all(sides) else None


@dataclass
class Unit:
    """One unit on the map; positions in the game's units, cooldown in game loops."""

    tag: int
    owner: int
    type_id: int
    kind: Kind
    x: float
    y: float
    facing: float = 0.0
    health: float = 0.0
    shield: float = 0.0
    energy: float = 0.0
    cooldown: float = 0.0
    asleep: int = ASLEEP
    order: tuple[str, object] | None = field(default=None, repr=False)

    def distance(self, other: Unit) -> float:
        """Between centres."""
        return math.hypot(self.x - other.x, self.y - other.y)


class Battle:
    """All units of a map and the passing of time.

    Args:
        map_name: a SMAC map, or anything else for an empty map.
        seed: of the enemies' starting places.
        size: side of the square map.
    """

    def __init__(self, map_name: str, seed: int, size: int = 32) -> None:
        self.teams, self.size = teams(map_name), size
        self.random = random.Random(seed)
        self.units: dict[int, Unit] = {}
        self.loop, self._tags = 0, 0
        self._populate()

    # ---------------------------------------------------------------- who is there

    def create(self, type_id: int, owner: int, x: float, y: float) -> None:
        """Put one unit on the map."""
        name = KIND_OF_TYPE.get(type_id) or OWN_TYPES[type_id - FIRST_OWN_TYPE]
        self._add(KINDS[name], type_id, owner, x, y)

    def kill(self, tags: Sequence[int]) -> None:
        """Remove units."""
        for tag in tags:
            self.units.pop(tag, None)

    def _add(self, kind: Kind, type_id: int, owner: int, x: float, y: float) -> None:
        self._tags += 1
        energy = 50.0 if kind.heals else 0.0
        unit = Unit(self._tags, owner, type_id, kind, x, y, 0.0, kind.health, kind.shield, energy)
        self.units[unit.tag] = unit

    def _populate(self) -> None:
        if self.teams is None:
            return
        for owner, team in zip((ALLY, ENEMY), self.teams):
            # The allies' own types count up from the kinds' order, as SMAC expects.
            own = (
                {name: FIRST_OWN_TYPE + i for i, name in enumerate(sorted(team, key=OWN_TYPES.index))}
                if owner == ALLY
                else {}
            )
            names = [name for name in sorted(team) for _ in range(team[name])]
            for i, name in enumerate(names):
                row, column = divmod(i, 8)
                x = 9.0 - row if owner == ALLY else 20.0 + row + self.random.random()
                y = 16.0 + (column - min(len(names), 8) / 2) * 1.2 + (0 if owner == ALLY else self.random.random())
                self._add(KINDS[name], own.get(name, KINDS[name].type_id), owner, x, y)

    # ---------------------------------------------------------------- what they do

    def order(self, tags: Sequence[int], order: tuple[str, object] | None) -> None:
        """Give units of the player an order: ``("move", (x, y))``, ``("attack", tag)``, ``("heal", tag)`` or none."""
        for tag in tags:
            if tag in self.units and self.units[tag].owner == ALLY:
                self.units[tag].order = order

    def step(self, loops: int) -> None:
        """Let game loops pass."""
        for _ in range(loops):
            self.loop += 1
            if not self.units:
                self._populate()  # the trigger in SMAC's maps: all dead, next episode
                continue
            for unit in list(self.units.values()):
                if unit.tag in self.units:
                    self._act(unit)

    def _act(self, unit: Unit) -> None:
        if unit.asleep:
            unit.asleep -= 1
            return
        unit.cooldown = max(0.0, unit.cooldown - 1)
        order = unit.order if unit.owner == ALLY else self._script(unit)
        if order is None:
            return
        name, target = order
        if name == "move":
            self._walk(unit, *target)  # type: ignore[misc]
            return
        other = self.units.get(target)  # type: ignore[call-overload]
        if other is None:
            unit.order = None
        elif unit.distance(other) > unit.kind.reach + 1.0:  # from edge to edge
            self._walk(unit, other.x, other.y)
        elif name == "heal":
            healed = min(unit.kind.damage / LOOPS_PER_SECOND, other.kind.health - other.health, unit.energy * 3)
            other.health += healed
            unit.energy -= healed / 3
        elif unit.cooldown == 0:
            unit.cooldown = unit.kind.cooldown * LOOPS_PER_SECOND
            self._hurt(other, unit.kind.damage)
            if unit.kind is KINDS["baneling"]:
                self.kill([unit.tag])

    def _script(self, unit: Unit) -> tuple[str, object] | None:
        """Enemies heal their weakest, or go for the nearest of the player's units."""
        foes = [other for other in self.units.values() if other.owner != unit.owner]
        if unit.kind.heals:
            hurt = [
                u for u in self.units.values() if u.owner == unit.owner and u is not unit and u.health < u.kind.health
            ]
            return ("heal", min(hurt, key=lambda u: u.health).tag) if hurt else None
        return ("attack", min(foes, key=unit.distance).tag) if foes else None

    def _walk(self, unit: Unit, x: float, y: float) -> None:
        distance = math.hypot(x - unit.x, y - unit.y)
        stride = unit.kind.speed / LOOPS_PER_SECOND
        if distance < 1e-6:
            return
        unit.facing = math.atan2(y - unit.y, x - unit.x) % (2 * math.pi)
        share = min(1.0, stride / distance)
        unit.x = min(max(unit.x + (x - unit.x) * share, 0.5), self.size - 0.5)
        unit.y = min(max(unit.y + (y - unit.y) * share, 0.5), self.size - 0.5)

    def _hurt(self, unit: Unit, damage: float) -> None:
        absorbed = min(unit.shield, damage)
        unit.shield -= absorbed
        unit.health -= damage - absorbed
        if unit.health <= 0:
            self.kill([unit.tag])
