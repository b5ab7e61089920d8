"""What belongs to the main module goes to nodes by value, and by reference to the workers of other managers."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.support.scripts import ENVIRONMENT, ROOT

PROGRAM = """
    import os
    from procbackground import Manager
    from procbackground.engines import DaskEngine

    class Counted:
        made = 0
        def __init__(self, x):
            self.x = x

    def has_main(counted):
        # By reference it is the class of the imported main module, by value a class without one.
        import sys
        found = sys.modules.get("__mp_main__")
        return getattr(found, "Counted", None) is type(counted)

    if __name__ == "__main__":
        class Guarded(Counted):
            pass

        engine = DaskEngine(ADDRESS)
        with Manager(1) as first, Manager(engine=engine) as far, Manager(1) as last:
            managers = first, far, last
            for _ in range(2):
                print([manager.run(has_main, Counted(1)).result() for manager in managers])
                print([manager.run(lambda c: c.x, Guarded(2)).result() for manager in managers])
                print([list(manager.map(has_main, [Counted(3)] * 2)) for manager in managers])
                print([manager.options(timeout=60).run(has_main, Counted(1)).result() for manager in managers])
"""


def test_only_the_manager_with_an_engine_sends_it_by_value(shared_cluster, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM).replace("ADDRESS", repr(shared_cluster.address)))
    ran = subprocess.run(
        [sys.executable, script], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    rows = ["[True, False, True]", "[2, 2, 2]", "[[True, True], [False, False], [True, True]]", "[True, False, True]"]
    assert ran.stdout.splitlines() == rows * 2, ran.stderr
