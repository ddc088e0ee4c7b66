"""The paper's questions at tiny size: one file and one command per question, `python -m experiments.NAME`."""
