"""Chooses what starts a manager's workers, and with which settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from procbackground import _platform
from procbackground._supervisor.direct import Direct
from procbackground._supervisor.process import Launcher
from procbackground._supervisor.relay import parent_levels
from procbackground._supervisor.zygote import Zygote
from procbackground._worker.boot import Boot

if TYPE_CHECKING:
    from procbackground._supervisor.loop import Loop


def make_launchers(loop: Loop) -> tuple[Launcher, Callable[[], Launcher]]:
    """Return what starts the workers of this loop, a zygote where the system can have one, and what makes a launcher
    that starts them directly.
    """
    options = loop.options
    spool = None if options.journal is None else options.journal.spool
    main = None if options.context.get_start_method() == "fork" else options.main  # a fork has it
    boot = Boot(
        loop.initializer, options.levels or parent_levels(), main, options.setup, spool, options.surroundings,
        options.main_import,
    )  # fmt: skip
    base = (options.context, boot, loop.page.fd, loop.life_read_fd)
    rest = (loop.warden, loop.starter, options.start_timeout_s)
    launched, failed, exited = loop.note_launched, loop.workers.launch_failed, loop.exits.exit_code_came
    make_direct = partial(Direct, *base, launched, failed, *rest)
    if _platform.IS_LINUX and options.context.get_start_method() == "forkserver" and _platform.has_pidfd():
        return Zygote(*base, loop.preload, loop.watches, launched, failed, exited, *rest), make_direct
    return make_direct(), make_direct
