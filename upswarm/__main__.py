"""``python -m upswarm``: the same as the command."""

from upswarm.cli import main

if __name__ == "__main__":
    main()
