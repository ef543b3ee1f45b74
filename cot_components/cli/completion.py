"""Print what makes the tab key complete commands, options, recipes and configs in bash or zsh.

Names are completed where a recipe or config may stand, files everywhere.
"""

from __future__ import annotations

import argparse

EXAMPLES = ('eval "$(cot completion bash)"    # in ~/.bashrc', 'eval "$(cot completion zsh)"     # in ~/.zshrc')

SCRIPT = """\
_cot() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words
  if [ "$COMP_CWORD" = 1 ]; then
    words="{commands} --help"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o filenames -F _cot cot
"""
TAKES_NAMES = ("ls", "cp", "view", "validate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))


def run(options: argparse.Namespace) -> int:
    from cot_components.cli.main import COMMANDS, make_parser

    (commands,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    cases = []
    for name, command in commands.choices.items():
        flags = [flag for action in command._actions for flag in action.option_strings if flag.startswith("--")]
        flags += [str(choice) for action in command._actions for choice in action.choices or ()]
        names = " $(cot ls --names 2>/dev/null)" if name in TAKES_NAMES else ""
        cases.append(f'      {name}) words="{" ".join(flags)}{names}" ;;')
    if options.shell == "zsh":
        print("autoload -Uz bashcompinit && bashcompinit")
    print(SCRIPT.format(commands=" ".join(COMMANDS), cases="\n".join(cases)), end="")
    return 0
