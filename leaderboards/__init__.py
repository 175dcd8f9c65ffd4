"""From the results of a run to a self-contained HTML leaderboard, with CSV and JSON beside it."""
