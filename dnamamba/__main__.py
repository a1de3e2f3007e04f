"""`python -m dnamamba`."""

from dnamamba.cli import main

if __name__ == "__main__":
    main()
