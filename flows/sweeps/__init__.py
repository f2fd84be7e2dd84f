"""The parts of `mhim sweep`: its configurations, their runs, the leaderboard and the winner."""
