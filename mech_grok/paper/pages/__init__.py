"""The pages of the paper's figures, made from results alone: one for each figure, and an index."""

from mech_grok.paper.pages.write import write_pages

__all__ = ["write_pages"]
