"""EMM(P, M, T): what joins data, models and training.

Modules: `recipe` (typed settings from YAML), `run` (one training in a folder named by its hash), `executor`
(several runs on one machine), `study` (sizes to runs to EMM), `emm` (the estimate and its interval),
`results` (the records), `quickstart`.
"""
