"""One verb, one file: its configuration, its function, its command."""
