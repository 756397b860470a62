"""An experiment of the paper, drawn beside the paper's numbers."""
