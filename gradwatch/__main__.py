"""`python -m gradwatch` does what the command `gradwatch` does."""

from gradwatch.cli import main

if __name__ == "__main__":
    main()
