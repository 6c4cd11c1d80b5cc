"""Files on disk: written completely or not at all, by one process, and checked when read."""
