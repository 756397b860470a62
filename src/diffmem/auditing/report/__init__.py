"""The report of an audit: its page, record, table of matches and pictures; nothing here decides."""

from __future__ import annotations

from diffmem.auditing.report.gallery import audit_images
from diffmem.auditing.report.write import write_audit

__all__ = ["audit_images", "write_audit"]
