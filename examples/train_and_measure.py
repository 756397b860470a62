"""Train a small model on 24 handwritten digits, generate from it, and measure how much it copies."""

import diffmem as dm

digits = dm.open_images("digits")
train, heldout = digits.take(range(24), "24 digits"), digits.take(range(500, 1000), "500 others")

run = dm.train(
    train,
    model=dm.ModelConfig(
        preconditioning="edm", channels=12, multipliers=(1, 2), blocks=1, attention=(), dropout=0.0
    ),
    training=dm.TrainingConfig(
        epochs=500,
        batch_size=24,
        learning_rate=4e-3,
        warmup=50,
        p_mean=-0.8,
        p_std=0.9,
        ema=dm.EmaConfig(mode="mode1", half_life=50),
    ),
    out="runs",
)
print(run)

samples = dm.generate(run.model, seeds=range(200))
found = dm.measure(samples, train, heldout=heldout)
print(found)
found.gallery("copies.png")
