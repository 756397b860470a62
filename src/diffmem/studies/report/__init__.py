"""R_mem over sizes and epochs: figures, tables, the page."""
