"""EMM found automatically: which sizes are trained, how long, and how many images are sampled, until the interval is narrow.

Modules, each using only those before it:
    records: What a search found, as typed records.
    confidence: Whether a rate is above a line, with no error from looking again and again.
    decisions: From the counts at the evaluation points to what one training says.
    choice: From what the trainings say to the next size, or to the end.
    interval: EMM of a level with its interval, from one or several seeds.
    cost: What was spent, and what a grid of equal precision would cost.
    simulation: The whole search on curves that are known, in place of trainings.
    recipe: A factor, its levels and the base configuration, as typed settings.
    work: One training of the search, stopped when it is decided; what a worker process runs.
    study: The search carried out in a folder: levels, runs, leases, the log.
    plan: Runs, hours, memory and disk of a search, before it starts.
"""
