"""R_mem over training-set sizes and the levels of a factor, and EMM: on a grid, or searched for."""
