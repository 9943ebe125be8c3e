"""What a run keeps and how it goes on: checkpoint files, the state in them, and which one is resumed from."""
