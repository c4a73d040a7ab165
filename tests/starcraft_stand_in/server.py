"""The stand-in's executable: answers the SC2 API over a websocket, one client, one game."""

from __future__ import annotations

import argparse
import contextlib
import threading
from pathlib import Path

from battle import ALLY, UNIT_TYPES, Battle
from s2clientprotocol import sc2api_pb2 as sc_pb
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

ABILITIES = {16: "move", 23: "attack", 386: "heal", 4: "stop"}


class Game:
    """Turns requests into responses."""

    def __init__(self) -> None:
        self.status = sc_pb.launched
        self.battle: Battle | None = None
        self.map_name, self.seed = "", 0

    def answer(self, request: sc_pb.Request) -> sc_pb.Response:
        """One response, with an error for what the stand-in does not know."""
        name = request.WhichOneof("request")
        response = sc_pb.Response(id=request.id)
        handler = getattr(self, f"_{name}", None)
        if handler is None:
            response.error.append(f"the stand-in knows no request '{name}'")
        else:
            getattr(response, name).SetInParent()
            handler(getattr(request, name), getattr(response, name))
        response.status = self.status
        return response

    def _ping(self, _request: sc_pb.RequestPing, response: sc_pb.ResponsePing) -> None:
        response.game_version, response.data_version = "stand-in", ""
        response.data_build = response.base_build = 75689

    def _create_game(self, request: sc_pb.RequestCreateGame, _response: sc_pb.ResponseCreateGame) -> None:
        self.map_name, self.seed = Path(request.local_map.map_path).stem, request.random_seed
        self.status = sc_pb.init_game

    def _join_game(self, _request: sc_pb.RequestJoinGame, response: sc_pb.ResponseJoinGame) -> None:
        self.battle = Battle(self.map_name, self.seed)
        self.status, response.player_id = sc_pb.in_game, ALLY

    def _game_info(self, _request: sc_pb.RequestGameInfo, response: sc_pb.ResponseGameInfo) -> None:
        assert self.battle is not None
        size, raw = self.battle.size, response.start_raw
        raw.map_size.x = raw.map_size.y = size
        raw.playable_area.p1.x = raw.playable_area.p1.y = size
        for grid, bits, byte in ((raw.pathing_grid, 1, b"\xff"), (raw.terrain_height, 8, b"\x7f")):
            grid.bits_per_pixel = bits
            grid.size.x = grid.size.y = size
            grid.data = byte * (size * size * bits // 8)

    def _data(self, _request: sc_pb.RequestData, response: sc_pb.ResponseData) -> None:
        for unit_id in range(UNIT_TYPES):
            response.units.add(unit_id=unit_id, name=str(unit_id))

    def _observation(self, _request: sc_pb.RequestObservation, response: sc_pb.ResponseObservation) -> None:
        assert self.battle is not None
        response.observation.game_loop = self.battle.loop
        for unit in self.battle.units.values():
            shown = response.observation.raw_data.units.add(
                tag=unit.tag,
                unit_type=unit.type_id,
                owner=unit.owner,
                display_type=1,
                alliance=1 if unit.owner == ALLY else 4,
                facing=unit.facing,
                radius=0.5,
                health=unit.health,
                health_max=unit.kind.health,
                shield=unit.shield,
                shield_max=unit.kind.shield,
                energy=unit.energy,
                energy_max=200 if unit.kind.heals else 0,
                weapon_cooldown=unit.cooldown,
            )
            shown.pos.x, shown.pos.y = unit.x, unit.y

    def _action(self, request: sc_pb.RequestAction, response: sc_pb.ResponseAction) -> None:
        assert self.battle is not None
        for action in request.actions:
            command = action.action_raw.unit_command
            name = ABILITIES[command.ability_id]
            point = command.target_world_space_pos
            target: object = (point.x, point.y) if name == "move" else command.target_unit_tag
            self.battle.order(list(command.unit_tags), None if name == "stop" else (name, target))
            response.result.append(1)

    def _step(self, request: sc_pb.RequestStep, response: sc_pb.ResponseStep) -> None:
        assert self.battle is not None
        self.battle.step(max(1, request.count))
        response.simulation_loop = self.battle.loop

    def _debug(self, request: sc_pb.RequestDebug, _response: sc_pb.ResponseDebug) -> None:
        assert self.battle is not None
        for command in request.debug:
            if command.HasField("kill_unit"):
                self.battle.kill(list(command.kill_unit.tag))
            if command.HasField("create_unit"):
                unit = command.create_unit
                for _ in range(unit.quantity):
                    self.battle.create(unit.unit_type, unit.owner, unit.pos.x, unit.pos.y)

    def _save_replay(self, _request: sc_pb.RequestSaveReplay, response: sc_pb.ResponseSaveReplay) -> None:
        assert self.battle is not None
        response.data = f"stand-in replay of {self.map_name}, {self.battle.loop} loops".encode()

    def _quit(self, _request: sc_pb.RequestQuit, _response: sc_pb.ResponseQuit) -> None:
        self.status = sc_pb.quit


def main() -> None:
    """Serve until the client quits or leaves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-listen", default="127.0.0.1")
    parser.add_argument("-port", type=int, required=True)
    options, _others = parser.parse_known_args()
    game = Game()

    def talk(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while game.status != sc_pb.quit:
                message = connection.recv(decode=False)  # pysc2 sends its bytes as text
                connection.send(game.answer(sc_pb.Request.FromString(message)).SerializeToString())
        threading.Thread(target=server.shutdown).start()

    with serve(talk, options.listen, options.port, compression=None, max_size=None) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
