"""`python -m procbackground`: the command."""

import sys

from procbackground._cli.start import main

if __name__ == "__main__":
    sys.exit(main())
