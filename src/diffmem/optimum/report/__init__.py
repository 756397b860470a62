"""The optimum's curves and the gaps of models, drawn."""
