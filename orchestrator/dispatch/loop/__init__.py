"""The dispatcher: claims, launches, watches and records trials until a sweep is done.

- dispatcher: the loop
- ports: what the loop is given and what it returns
- queue: which waiting trial starts next
- attempts: running attempts, from their prepared folder to their exit
- outcomes: how an attempt ended
- memory: how much GPU memory a trial needs
- retries: whether a failed trial runs again, and on which terms
- takeover: what other dispatchers left
- bookkeeping: records outcomes, values configurations
"""
