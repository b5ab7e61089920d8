"""The parent's side of every worker: one thread, and all of the parent's input and output."""
