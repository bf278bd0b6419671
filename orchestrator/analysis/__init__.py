"""Finished trials -> what they are worth: estimates with 95 % CIs, ranks, ties, comparisons, reports.

stats.py        confusion matrices per image -> mIoU, its 95 % CI, paired differences
cache.py        values computed for finished trials, kept on disk
confusions.py   a trial's confusion matrices, read only when a value is not cached
trials.py       runs -> trials, wherever their files lie
results.py      trials -> one result per configuration; its estimate, differences, spread of seeds, rank and ties
leaderboard.py  `orchestrate leaderboard`
compare.py      `orchestrate compare`
report/         `orchestrate report`
"""
