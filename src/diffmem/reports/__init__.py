"""What every report is made of: text of numbers, style, HTML, galleries, a report's folder, and the page of near-duplicates.

Matplotlib and jinja2 are loaded when something is drawn, not when this package is imported.
"""
