"""One self-contained HTML page about a run or a sweep, for people to look at."""
