"""What a run keeps and how it goes on: checkpoint files, the state in them, and the choice of the one to resume from."""
