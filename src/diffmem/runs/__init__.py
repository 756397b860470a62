"""One (P, M, T, seed): its recipe, its training, its evaluations and its folder."""
