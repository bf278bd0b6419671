"""A pool of candidates -> the members whose combined probabilities score best.

blocks.py      predictions regrouped: blocks of 64 pixels of one image and one true class
kernel.py      blocks -> how often each class wins; compiled
counting.py    members and candidates -> confusion matrices, on all cores, cached
strategies.py  searches: greedy, weighted, swaps, beam, exhaustive
pool.py        a pool of candidates -> chosen members
"""
