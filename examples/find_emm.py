"""Find EMM, the largest training set that a model still memorizes, for two widths of a small network."""

import diffmem as dm

study = dm.find_emm(
    "digits",
    sizes=(4, 20),
    levels={"8": {"model.channels": 8}, "12": {"model.channels": 12}},
    factor="width",
    data={"selection": "random", "heldout": 500},
    model={
        "preconditioning": "edm", "multipliers": (1, 2), "blocks": 1, "attention": (), "dropout": 0.0,
    },
    training={
        "epochs": 600, "batch_size": 16, "learning_rate": 4e-3, "warmup": 50, "p_mean": -0.8, "p_std": 0.9,
        "ema": {"mode": "mode1", "half_life": 50},
    },
    measure=dm.MeasureConfig(samples=100),
    search=dm.SearchConfig(tolerance=0.45),
    out="studies/width",
)  # fmt: skip
print(study)
