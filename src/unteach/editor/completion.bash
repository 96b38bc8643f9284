# Completion of unteach for bash. For every new shell, put this line into ~/.bashrc:
#   eval "$(unteach completion bash)"
_unteach() {
    local candidate
    COMPREPLY=()
    # Read line by line, so that no name is a pattern; the bash of macOS has no mapfile.
    while IFS= read -r candidate; do
        COMPREPLY+=("$candidate")
    done < <(@COMMAND@ bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    # What goes on, a key or a folder, gets no space behind it.
    if [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *[=./] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _unteach unteach
