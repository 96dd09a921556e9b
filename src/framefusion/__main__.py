"""``python -m framefusion``: the command line."""

from framefusion.cli import main

if __name__ == "__main__":
    main()
