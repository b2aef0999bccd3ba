"""Running a checkpoint in the stacks that will serve it, each in whatever environment has it."""
