"""Sweeps by the clock: cron.py reads lines, clock.py tells what is due, scheduler.py decides, launch.py runs, record.py notes."""
