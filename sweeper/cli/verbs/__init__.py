"""What `python -m sweeper VERB` does: a file per verb, each with `run(options, flags) -> exit code`."""
