"""The facts of each family as literal data: constructor arguments by registered name, checkpoints by tag."""
