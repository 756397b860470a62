"""The figures and tables of Gu et al., reproduced and judged."""
