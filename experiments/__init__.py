"""What the paper shows, at tiny size: one file a question, each a command, `python -m experiments.NAME`."""
