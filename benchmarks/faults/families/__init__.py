"""The set-ups, a module a family."""
