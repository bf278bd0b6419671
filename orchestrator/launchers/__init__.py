"""Ways to run an attempt: in this process, in processes of this machine."""
