"""The user's table of slides: reading it, checking it row by row, splitting its patients into folds."""
