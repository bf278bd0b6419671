"""The shares of this machine that attempts run on, and who holds them.

driver.py           what the NVIDIA driver reports of the GPUs
gpus.py             those that CUDA_VISIBLE_DEVICES leaves, and a watch on them
locks.py            lock files, which all dispatchers and users share
gpu_sharing.py      how attempts share a GPU: reservations of memory
priority_queue.py   who waits for a slot
table.py            the slots, and which of them are free
"""
