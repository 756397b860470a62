"""Audits: does this model leak its training data?

`audit` takes one `AuditRequest` and gives one record, `AuditResult`; `self_test` proves on the user's own images that copies are found.
"""

from __future__ import annotations

from diffmem.auditing.audit import Audited, audit
from diffmem.auditing.records import AuditResult
from diffmem.auditing.request import AuditOptions, AuditRequest, OtherSource
from diffmem.auditing.selftest.run import self_test
from diffmem.auditing.spaces import FeatureSpace, open_feature_space, parse_transforms

__all__ = [
    "AuditOptions",
    "AuditRequest",
    "AuditResult",
    "Audited",
    "FeatureSpace",
    "OtherSource",
    "audit",
    "open_feature_space",
    "parse_transforms",
    "self_test",
]
