"""``python -m orchestrator.cli``, which is ``orchestrate``."""

from orchestrator.cli import main

if __name__ == "__main__":  # a worker imports this module under another name
    main()
