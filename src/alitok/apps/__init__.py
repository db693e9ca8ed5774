"""What a user asks for beside training: one folder per command, independent of one another, each deletable."""
