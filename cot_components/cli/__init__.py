"""The command `cot`: one small file per command, each with `add_arguments(parser)`, `run(options)` and `EXAMPLES`.

`main.COMMANDS` lists them; `shipped` holds what they share.
"""
