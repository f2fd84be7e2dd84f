"""What runs share: the cohort table, the run folder, its fits, its evaluation, progress."""
