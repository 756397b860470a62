"""Audits: does this model leak its training data?

Modules: `audit` (everything that one audit does), `records` (what it found: the schema of `audit.json`), `spaces`
(the space in which images are compared), `instrument` (a training set, prepared to judge any image), `replication`
(samples and null images through the instrument), `chance` (whether chance explains what is flagged), `matches` (who
copies whom), `planting`, `power` and `selftest` (what is found of copies that were planted; `selftest_records`,
`selftest_checks` and `coverage` serve it), `probing` (samples and membership from a model), `projection` (the time it
will take), `verdict`, `wishes` (words of the command line).
"""

from __future__ import annotations

from diffmem.auditing.audit import Audited, Question, audit
from diffmem.auditing.options import open_feature_space, parse_transforms
from diffmem.auditing.records import AuditResult
from diffmem.auditing.selftest.run import self_test
from diffmem.auditing.spaces import FeatureSpace

__all__ = [
    "AuditResult",
    "Audited",
    "FeatureSpace",
    "Question",
    "audit",
    "open_feature_space",
    "parse_transforms",
    "self_test",
]
