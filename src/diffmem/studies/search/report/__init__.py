"""A search for EMM: figures, tables, the page."""
