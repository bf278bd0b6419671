"""What lies on this machine's disk, and in the database that dispatchers share.

home.py      the paths, and which dispatchers are alive
files.py     replacing files at once; locks; network file systems
disk.py      whether there is room for more trials
machine.py   cores, and versions of libraries
units.py     durations and sizes, written for people
trial/       a trial's folder
ledger/      who owns which trial
"""
