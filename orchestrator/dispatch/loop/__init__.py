"""The dispatcher: claims, launches, watches and records trials until a sweep is done.

dispatcher.py    the loop
ports.py         what the loop is given and what it returns
queue.py         which waiting trial starts next
attempts.py      running attempts, from their prepared folder to their exit
outcomes.py      how an attempt ended
memory.py        how much GPU memory a trial needs
retries.py       whether a failed trial runs again, and on which terms
takeover.py      what other dispatchers left
bookkeeping.py   records outcomes, values configurations
"""
