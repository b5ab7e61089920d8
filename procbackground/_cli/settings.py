"""Settings from pyproject.toml: `[tool.procbackground]`, and `[tool.procbackground.map]` for one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from procbackground._cli.errors import Wrong, near

FILE = "pyproject.toml"


def settings_for(name: str, command: click.Command) -> dict[str, Any]:
    """Return the settings that the nearest pyproject.toml has for a command. Raises: `Wrong`."""
    from procbackground._cli.app import COMMANDS

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
    general = {_plain(key): value for key, value in table.items() if key not in COMMANDS}
    unknown = [key for key in general if key not in known]
    if unknown:
        _check_known_elsewhere(path, unknown)
    chosen = {key: value for key, value in general.items() if key in known}
    chosen |= {_plain(key): value for key, value in own.items()}
    return {str(each.name): _as_typed(path, each, chosen[each.name]) for each in command.params if each.name in chosen}


def _as_typed(path: Path, option: click.Parameter, value: Any) -> Any:
    """Return a value as from the command line, where all is text. Raises: `Wrong` for one of another type."""
    is_flag = isinstance(option, click.Option) and option.is_flag
    if is_flag and isinstance(value, bool):
        return value
    if option.multiple and isinstance(value, list):
        return list(map(str, value))
    if option.name == "slots" and isinstance(value, dict):
        return ",".join(f"{name}={count}" for name, count in value.items())
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and not is_flag and not option.multiple:
        return str(value)
    wanted = "true or false" if is_flag else "a list" if option.multiple else "a text or a number"
    raise Wrong(f"{path}: {option.name} = {value!r}, where {wanted} is needed")


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
        section = parsed
        for key in ("tool", "procbackground"):
            section = section.get(key, {})
            if not isinstance(section, dict):
                raise Wrong(f"{path}: {key} = {section!r}, where [tool.procbackground] is needed")
        return path, section
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
