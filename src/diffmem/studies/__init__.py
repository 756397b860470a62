"""EMM(P, M, T): what joins data, models and training.

Modules: `recipe` (typed settings from YAML), `trained` (one training in a folder named by its hash), `run` (with its evaluations),
`evaluations` (their store), `null` (their held-out images), `frechet` (their Frechet distances), `run_folder` (a run opened from its
folder), `executor` (several runs on one machine), `study` (sizes to runs to EMM), `emm` (the estimate and its interval), `results` (the
records), `quickstart`; `optimum_curves` and `collapse` (what the optimum of a set knows at each noise level, and where it collapses),
`gap`, `gap_run` and `gap_records` (how far a model is from its optimum, for denoisers, for a run's folder, and as records), `means` (a
mean with its interval), `membership` (whether scores tell training images from others of one source; `membership_scores`: loss, SecMI,
PIA; `membership_rates`: areas, thresholds, images needed), `exposure` (of planted canaries), `dimensions` and `flipd` (local
dimensions, which memorized images have few of).

Packages: `store` (the index beside the runs, leases, locks), `executors` (where the runs of a search are done: this process, this
machine, a cluster), `search` (EMM found automatically for the levels of a factor), `audit` (does a model leak its training data?).
"""
