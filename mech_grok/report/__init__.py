"""Figures, data first and then drawing, and the page that holds them."""

from mech_grok.report.page import study_report

__all__ = ["study_report"]
