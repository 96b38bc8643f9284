# Completion of unteach for zsh. For every new shell, put these lines into ~/.zshrc:
#   autoload -Uz compinit && compinit
#   eval "$(unteach completion zsh)"
_unteach() {
    local -a lines open_words open_texts words_done texts_done
    local line word text
    lines=("${(@f)$(@COMMAND@ zsh '' "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    for line in $lines; do
        word=${line%%$'\t'*}
        text="$word  ${line#*$'\t'}"
        # What goes on, a key or a folder, gets no space behind it.
        if [[ $word == *[=./] ]]; then
            open_words+=("$word") open_texts+=("$text")
        else
            words_done+=("$word") texts_done+=("$text")
        fi
    done
    (( $#open_words )) && compadd -U -S '' -l -d open_texts -a open_words
    (( $#words_done )) && compadd -U -l -d texts_done -a words_done
}
compdef _unteach unteach
