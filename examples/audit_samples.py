"""Audit a set of generated images: here, fresh digits among which 30 near-copies of training images were hidden."""

import numpy as np

import diffmem as dm

digits = dm.open_images("digits")
train, heldout = digits.take(range(600), "600 digits"), digits.take(range(600, 1100), "500 others")

samples = digits.images[
    1100:1700
].copy()  # in your case: "generated/", a folder or file of your model's samples
noise = np.random.default_rng(0).integers(-3, 4, (30, *digits.shape))
samples[:30] = np.clip(train.images[:30].astype(int) + noise, 0, 255)

audit = dm.audit(train, samples=samples, heldout=heldout)
print(audit.verdict)
for match in audit.found.matches[:5]:
    print(f"sample {match.sample} copies training image {match.training}")
print(audit.save("audit-samples"))
