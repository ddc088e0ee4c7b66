"""What a user types: one file a command, each with `add_arguments(parser)` and `main(args)`."""
