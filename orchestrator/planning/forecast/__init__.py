"""What a person sees of a plan before anything runs: edits since the last run, expected time and disk space, version drift.

- timings: what finished trials took
- estimates: what the remaining trials will take
- snapshot: what the sweep was when it last began
- diff: what was edited since
- outlook: all of it together
"""
