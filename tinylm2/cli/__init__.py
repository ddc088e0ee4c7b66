"""The commands, one file each, with `add_arguments(parser)` and `main(args)`."""
