"""The functions of `import diffmem`: train, generate, measure, audit, search; the commands call these, too."""
