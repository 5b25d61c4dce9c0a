"""The command line: one file per verb, no decisions of its own."""
