"""``spineline completion``: a shell script that completes tasks, modes, keys and values.

The script holds all names, so completion does not start Python. It must be printed again after an
update.
"""

from __future__ import annotations

from collections.abc import Iterator

from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version
from spineline.datasets.common.settings import KeyDescription, describe
from spineline.pipeline.cli.commands import COMMANDS
from spineline.pipeline.cli.help import load_named
from spineline.pipeline.cli.settings import Completion

_NO_VALUES = ("int", "float", "text", "path")

_BASH = r"""
_spineline() {
    local line=${COMP_LINE:0:COMP_POINT} cur command value values word given=' ' prefix='' i
    local -a words
    IFS=$' \t' read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=('')
    cur=${words[${#words[@]}-1]}
    command=''
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        word=${words[i]}
        if [[ $word == *=* ]]; then given+="${word%%=*}= "; else command+="${command:+ }$word"; fi
    done
    COMPREPLY=()
    if [[ $cur != *=* ]]; then
        for word in $(_spineline_words "$command"); do
            [[ $word == "$cur"* && $given != *" $word "* ]] && COMPREPLY+=("$word")
        done
        [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace 2> /dev/null
        return
    fi
    value=${cur#*=}
    [[ $COMP_WORDBREAKS == *=* ]] || prefix=${cur%%=*}=
    values=$(_spineline_values "$command ${cur%%=*}")
    if [[ -z $values ]]; then
        compopt -o filenames 2> /dev/null
        while IFS= read -r word; do COMPREPLY+=("$prefix$word"); done < <(compgen -f -- "$value")
        return
    fi
    [[ $value == *,* ]] && prefix+=${value%,*},
    for word in $values; do
        [[ $word == "${value##*,}"* ]] && COMPREPLY+=("$prefix$word")
    done
}
complete -F _spineline spineline
"""

_ZSH = r"""
_spineline() {
    local cur=${words[CURRENT]} command='' word i
    local -a given candidates
    for ((i = 2; i < CURRENT; i++)); do
        word=${words[i]}
        if [[ $word == *=* ]]; then given+=("${word%%=*}="); else command+="${command:+ }$word"; fi
    done
    if [[ $cur != *=* ]]; then
        candidates=(${=$(_spineline_words "$command")})
        candidates=(${candidates:|given})
        compadd -S '' -- ${(M)candidates:#*[=.]}
        compadd -- ${candidates:#*[=.]}
        return
    fi
    candidates=(${=$(_spineline_values "$command ${cur%%=*}")})
    compset -P '*='
    if (( ${#candidates} )); then
        compset -P '*,'
        compadd -- $candidates
    else
        _files
    fi
}
if [[ ${funcstack[1]} == _spineline ]]; then _spineline "$@"; else compdef _spineline spineline; fi
"""

_FISH = r"""
function __spineline_complete
    set -l cur (commandline -ct)
    set -l command
    set -l given
    for word in (commandline -opc)[2..]
        if string match -q '*=*' -- $word
            set -a given (string replace -r '=.*' '=' -- $word)
        else
            set -a command $word
        end
    end
    if not string match -q '*=*' -- $cur
        for word in (string split ' ' -- (__spineline_words "$command"))
            contains -- $word $given; or echo $word
        end
        return
    end
    set -l key (string replace -r '=.*' '' -- $cur)
    set -l value (string replace -r '^[^=]*=' '' -- $cur)
    set -l values (__spineline_values "$command $key")
    if test -z "$values"
        for path in (__fish_complete_path $value | string replace -r '\t.*' '')
            echo $key=$path
        end
        return
    end
    set -l before (string match -r '.*,' -- $value)
    set -q before[1]; or set before ''
    for word in (string split ' ' -- $values)
        echo $key=$before$word
    end
end
complete -c spineline -f -a '(__spineline_complete)'
"""

_FILES = {
    "bash": "~/.local/share/bash-completion/completions/spineline",
    "zsh": "a folder of $fpath, as _spineline",
    "fish": "~/.config/fish/completions/spineline.fish",
}
"""Where each shell looks for such a script."""


def completion(settings: Completion) -> str:
    """Print the script of a shell and return it."""
    script = completion_script(settings.shell)
    LOG.info("%s", script)
    return script


def completion_script(shell: str) -> str:
    """The script for ``bash``, ``zsh`` or ``fish``."""
    head = "#compdef spineline\n" if shell == "zsh" else ""
    head += f"# Completion of spineline {package_version()} for {shell}. Write it to\n"
    head += f"# {_FILES[shell]}\n"
    tables = _fish_table if shell == "fish" else _posix_table
    body = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    return (
        head + tables("words", dict(_words())) + tables("values", dict(_values())) + body.rstrip()
    )


def _words() -> Iterator[tuple[str, str]]:
    """Each command with the words that may follow it; keys end in ``=``, open groups in a dot."""
    yield "", " ".join([*COMMANDS, "help", "version"])
    yield "help", " ".join(COMMANDS)
    for task, modes in COMMANDS.items():
        if "" not in modes:
            yield task, " ".join([*modes, "help"])
            yield f"help {task}", " ".join(modes)
        for mode in modes:
            keys = " ".join(_key_word(key) for key in _keys_of(task, mode))
            yield f"{task} {mode}".strip(), f"{keys} cfg= help"


def _values() -> Iterator[tuple[str, str]]:
    """The values of each key with a fixed list of them, by command and key."""
    for task, modes in COMMANDS.items():
        for mode in modes:
            for key in _keys_of(task, mode):
                parts = [part.removesuffix(",…") for part in key.type.split("|")]
                values = [part for part in parts if part not in _NO_VALUES]
                if values and not {"path", "text"} & set(parts):
                    yield " ".join(filter(None, [task, mode, key.name])), " ".join(values)


def _keys_of(task: str, mode: str) -> list[KeyDescription]:
    return describe(load_named(COMMANDS[task][mode].settings))


def _key_word(key: KeyDescription) -> str:
    return key.name.removesuffix("KEY") if key.name.endswith(".KEY") else f"{key.name}="


def _posix_table(name: str, table: dict[str, str]) -> str:
    cases = "".join(f"        '{given}') echo '{answer}' ;;\n" for given, answer in table.items())
    return f'_spineline_{name}() {{\n    case "$1" in\n{cases}    esac\n}}\n'


def _fish_table(name: str, table: dict[str, str]) -> str:
    cases = "".join(
        f"        case '{given}'\n            echo '{answer}'\n" for given, answer in table.items()
    )
    return f'function __spineline_{name}\n    switch "$argv[1]"\n{cases}    end\nend\n'
