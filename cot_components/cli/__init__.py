"""The command `cot`: one small file per command, each with `add_arguments(parser)`, `run(options)` and `EXAMPLES`."""
