"""The part of an audit's page, and the files, that are about prompts; nothing here decides."""
