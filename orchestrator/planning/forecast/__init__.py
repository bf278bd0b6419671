"""What a person sees of a plan before anything runs: edits since the last run, expected time and disk space, version drift.

timings.py     what finished trials took
estimates.py   what the remaining trials will take
snapshot.py    what the sweep was when it last began
diff.py        what was edited since
outlook.py     all of it together
"""
