"""Errors whose message is written for the person who can mend them."""


class UserError(ValueError):
    """Bad input: one clear sentence naming file and line, key or value. Recipes print it without a traceback and exit
    with code 2.
    """
