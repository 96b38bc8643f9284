# Completion of unteach for fish. Once:
#   unteach completion fish > ~/.config/fish/completions/unteach.fish
function __unteach_complete
    set -l before (commandline -opc)
    set -e before[1]
    @COMMAND@ fish '' $before (commandline -ct) 2>/dev/null
end
complete -c unteach -f -a '(__unteach_complete)'
