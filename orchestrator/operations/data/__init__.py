"""`orchestrate data`: looks at a data set before anything is trained on it, shows its pictures, writes the synthetic one."""
