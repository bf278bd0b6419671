"""Ways to run an attempt.

base.py            what the dispatcher needs of a launcher
choose.py          launchers by name
local.py           processes on this machine
inline.py          one thread of this process
ray.py             tasks on a Ray cluster
ray_resources.py   what one task gets of a Ray node
slots/             the shares of this machine's GPUs and CPUs, and who holds them
worker/            what happens in the process that trains
"""
