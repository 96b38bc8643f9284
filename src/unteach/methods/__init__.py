"""The methods: rules that turn a batch into a loss. One file a method, with its formula and its
paper."""
