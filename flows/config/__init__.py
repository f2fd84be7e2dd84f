"""The keys of every command as typed dataclasses, and how words become one. Light: `--help` reads this package."""
