"""`python -m mep` is `mep`."""

from mep.cli import main

if __name__ == "__main__":
    main()
