"""EMM found automatically: which sizes are trained, how long, and how many images are sampled, until the interval is narrow."""
