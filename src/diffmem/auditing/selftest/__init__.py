"""The self-test: copies are planted in known numbers, and the audit must say what was planted."""
