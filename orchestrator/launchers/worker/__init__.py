"""The process that trains one attempt.

preload.py      what the forkserver imports before workers are forked
slot.py         what an attempt may use of the machine
process.py      signals, log, and dying with the dispatcher
main.py         trains the trial in a folder, and records how it ended
validation.py   what is kept of the validation images
exit_codes.py   how the process reports its end
"""
