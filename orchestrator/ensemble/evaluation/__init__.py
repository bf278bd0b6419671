"""Chosen members -> what the choice is worth on images that took no part in it.

crossfit.py   each image scored by what was chosen without it
diversity.py  disagreement, oracle, what each member adds
stacking.py   learned combinations, evaluated in the same way
evaluate.py   a pool -> the report
report.py     the report, for people and as JSON
"""
