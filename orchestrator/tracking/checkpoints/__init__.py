"""Checkpoints on the server: those of running trials, for other machines to resume from, and which of all are kept.

uploads.py     the mirror's second thread, which sends checkpoints of running trials
store.py       sends, finds and fetches such a checkpoint
retention.py   which sweeps keep which checkpoints, and which ensembles need them
"""
