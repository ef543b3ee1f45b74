"""Keeps secrets out of everything that is written: environment secrets, recognised by the name of their variable or
key, and every value a config takes from the environment (`${oc.env:NAME}`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_WORDS = {
    *("TOKEN", "TOKENS", "KEY", "KEYS", "SECRET", "SECRETS", "PASSWORD", "PASSWORDS", "PASSWD", "PASSPHRASE", "PASS"),
    *("PWD", "PAT", "CREDENTIAL", "CREDENTIALS", "CRED", "CREDS", "AUTH", "SESSION", "COOKIE", "BEARER", "JWT"),
}
_ENDINGS = ("PASSWORD", "PASSWD", "SECRET", "TOKEN", "APIKEY", "ACCESSKEY")
"""Also at the end of a longer word: PGPASSWORD."""
_OF_THE_DESKTOP = {"PWD", "DESKTOP_SESSION", "SSH_AUTH_SOCK"}
_OF_CONFIGS = re.compile(
    r"(?i)(.*_)?(password|passwd|passphrase|secret|credentials?|auth|(api|access|private|secret)_?key"
    r"|(access|auth|api|hf|hub|bearer|session)_token)"
)
"""Keys of a config whose values are secrets; `pad_token` and `packed_tokens` are not among them."""
_SHORTEST = 6  # a shorter value could occur in other text by chance

_taken: set[str] = set()  # variables that this process's config takes


class FromEnvironment(str):
    """A value that a config takes from the environment, with the text that the config has for it."""

    written: str

    def __new__(cls, value: str, written: str = "") -> FromEnvironment:
        made = super().__new__(cls, value)
        made.written = written
        return made


def is_secret(variable: str) -> bool:
    """Whether an environment variable is a secret, judged by the whole words of its name."""
    if variable in _OF_THE_DESKTOP or variable.startswith("XDG_"):
        return False
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", variable)
    return any(word.upper() in _WORDS or word.upper().endswith(_ENDINGS) for word in words)


def remember_origin(written: Any, resolved: Any) -> Any:
    """`resolved`, the values of a config, where every text that is not written out in `written`, the config as it
    stands, is a `FromEnvironment`; as it is if nothing there comes from the environment.
    """
    names = re.findall(r"oc\.env:\s*([^\s,}]+)", str(written))
    _taken.update(names)
    return _with_origin(written, resolved) if names else resolved


def _with_origin(written: Any, resolved: Any) -> Any:
    if isinstance(written, Mapping) and isinstance(resolved, Mapping):
        return {key: _with_origin(written.get(key), value) for key, value in resolved.items()}
    if isinstance(written, list) and isinstance(resolved, list):
        return [_with_origin(*pair) for pair in zip(written, resolved, strict=True)]
    if isinstance(resolved, str) and isinstance(written, str) and "${" in written:
        return FromEnvironment(resolved, written)
    return resolved


def without_secrets(node: Any, key: str = "") -> Any:
    """A config or text that is safe to write: every secret, every user and password in an address, and every value from
    the environment is replaced by `${oc.env:NAME}`, which a config can read back.

    Args:
        node: a config, part of one, or a sentence. key: the config key whose value is `node`.
    """
    if isinstance(node, Mapping):
        return {name: without_secrets(value, str(name)) for name, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [without_secrets(value, key) for value in node]
    if isinstance(node, FromEnvironment):
        return node.written
    if not isinstance(node, str):
        return node
    if node and _OF_CONFIGS.fullmatch(key) and not node.startswith("${"):
        return f"${{oc.env:{key.upper()}}}"
    node = re.sub(r"(?<=://)[^/@\s]+(?=@)", "${oc.env:CREDENTIALS}", node)
    secrets = {
        value: name
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and (is_secret(name) or name in _taken)
    }
    longest_first = "|".join(map(re.escape, sorted(secrets, key=len, reverse=True)))
    return re.sub(longest_first, lambda found: f"${{oc.env:{secrets[found[0]]}}}", node) if secrets else node


def agree(one: Any, other: Any) -> bool:
    """Whether two config values can be the same, either of them with its secrets masked."""
    if one == other:
        return True
    return isinstance(one, str) and isinstance(other, str) and (_fits(one, other) or _fits(other, one))


def _fits(masked: str, value: str) -> bool:
    parts = re.split(r"\$\{[^{}]*\}", masked)
    return len(parts) > 1 and re.fullmatch(".+".join(map(re.escape, parts)), value, re.DOTALL) is not None
