"""`python -m taskmux` is the command `taskmux`."""

from taskmux.cli import main

if __name__ == "__main__":
    main()
