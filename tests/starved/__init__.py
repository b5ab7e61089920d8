"""Programs that run short of something, each in a process of its own, because limits hold for a whole process."""
