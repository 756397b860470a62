"""The closed-form optimum of a finite image set, what it knows at each noise level, and how far a model is from it."""
