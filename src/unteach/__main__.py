"""`python -m unteach …` and `torchrun -m unteach …`: the command line."""

from unteach.cli import main

if __name__ == "__main__":
    main()
