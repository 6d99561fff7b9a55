"""`python -m aape`, which is also what `torchrun ... -m aape` starts."""

from aape.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
