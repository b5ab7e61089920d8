"""What every worker of a manager starts with, and the import of the main module."""

from __future__ import annotations

from multiprocessing import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procbackground._submit.setup import Setup
    from procbackground._wire.surroundings import Surroundings
    from procbackground._worker.initializer import Initializer
    from procbackground._worker.relay import Levels


class Boot:
    """The settings that every worker of a manager starts with. Pickled, or inherited by a fork."""

    def __init__(
        self,
        initializer: Initializer | None,
        log_levels: Levels,
        main: tuple[str | None, str | None] | None = None,
        setup: Setup | None = None,
        spool: str | None = None,
        surroundings: Surroundings | None = None,
        main_import: str = "auto",
    ) -> None:
        self.initializer = initializer
        self.log_levels = log_levels  # of the parent
        self.main = main  # name or path of the parent's `__main__`, for `prepare_main`
        self.main_import = main_import  # by the zygote ("once"), by each worker ("each"), or as `fitness` says
        self.setup = setup
        self.spool = spool  # the beginning of the names of files in which results are kept for the journal
        self.surroundings = surroundings
        self.slots: dict[str, tuple[int, ...]] = {}  # the numbers that the process has, by name

    @property
    def is_main_forks_own(self) -> bool:
        """Whether each fork of a zygote imports the main module itself."""
        return self.main is not None and self.main_import == "each"


def prepare_main(boot: Boot) -> None:
    """Run the parent's script as `__mp_main__`, as `multiprocessing` does in its children.

    It is left to us there (see `EarlyName`): we know which scripts a child can import, also when the parent's has ended
    and has no `__main__.__file__` any more, and where it shall be imported.
    """
    if boot.main is None:
        return
    from multiprocessing import spawn

    keys = ("init_main_from_name", "init_main_from_path")
    data = {key: value for key, value in zip(keys, boot.main, strict=True) if value is not None}

    me = process.current_process()
    me._inheriting = True  # type: ignore[attr-defined]  # so that a script without a main guard gets a clear error
    try:
        spawn.prepare(data)  # does nothing if that is `__main__` already
    finally:
        del me._inheriting  # type: ignore[attr-defined]
