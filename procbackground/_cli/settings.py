"""Settings from pyproject.toml: `[tool.procbackground]`, and `[tool.procbackground.map]` for one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from procbackground._cli.errors import Wrong, near

FILE = "pyproject.toml"


def settings_for(name: str, command: click.Command) -> dict[str, Any]:
    """Return the settings that the nearest pyproject.toml has for a command. Raises: `Wrong`."""
    path, table = _section()
    if not table:
        return {}
    known = _option_names(command)
    own = table.get(name, {})
    if not isinstance(own, dict):
        raise Wrong(f"{path}: tool.procbackground.{name} must be a table of that command's options")
    for key in own:
        if _plain(key) not in known:
            raise Wrong(
                f"{path}: [tool.procbackground.{name}] has {key!r}, which is no option of it{_near(key, known)}"
            )
    general = {_plain(key): value for key, value in table.items() if not isinstance(value, dict)}
    unknown = [key for key in general if key not in known]
    if unknown:
        _check_known_elsewhere(path, unknown)
    chosen = {key: value for key, value in general.items() if key in known}
    return chosen | {_plain(key): value for key, value in own.items()}


def _section() -> tuple[Path, dict[str, Any]]:
    here = Path.cwd()
    for folder in (here, *here.parents):
        path = folder / FILE
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if b"procbackground" not in data:
            return path, {}
        import tomllib

        try:
            parsed = tomllib.loads(data.decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Wrong(f"{path} cannot be read: {error}") from None
        section = parsed.get("tool", {}).get("procbackground", {})
        return path, section if isinstance(section, dict) else {}
    return Path(FILE), {}


def _check_known_elsewhere(path: Path, keys: list[str]) -> None:
    from procbackground._cli.app import COMMANDS, app

    context = click.Context(app)
    every: set[str] = set()
    for name in COMMANDS:
        found = app.get_command(context, name)
        if found is not None:
            every |= _option_names(found)
    for key in keys:
        if key not in every:
            hint = _near(key, every)
            raise Wrong(f"{path}: [tool.procbackground] has {key!r}, which is no option of any command{hint}")


def _option_names(command: click.Command) -> set[str]:
    return {str(each.name) for each in command.params if isinstance(each, click.Option)}


def _plain(key: str) -> str:
    return key.replace("-", "_")


def _near(key: str, names: set[str]) -> str:
    return near(_plain(key), names)
