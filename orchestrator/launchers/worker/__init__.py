"""The process that trains one attempt.

contract.py     what launchers and workers agree on: slot and exit codes
preload.py      what the forkserver imports before workers are forked
process.py      signals, log, and dying with the dispatcher
main.py         trains the trial in a folder, and records how it ended
validation.py   what is kept of the validation images
"""
