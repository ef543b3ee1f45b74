"""Errors whose message is written for the person who can mend them."""

GET_IT = "make or download it first; the config's header says how"
"""What to do about a model folder that a config names and that is not there."""


class UserError(ValueError):
    """Bad input: one clear sentence naming file and line, key or value. Recipes print it without a traceback and exit
    with code 2.
    """
