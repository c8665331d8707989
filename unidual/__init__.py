"""The command line of `unidual_zoo`, in a package of its own: importing that one imports torch, and `unidual --help` is
to answer at once."""
