# Completion of unteach for bash. For every new shell, put this line into ~/.bashrc:
#   eval "$(unteach completion bash)"
_unteach() {
    mapfile -t COMPREPLY < <(
        @COMMAND@ bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null
    )
    # What goes on, a key or a folder, gets no space behind it.
    if [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *[=./] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _unteach unteach
