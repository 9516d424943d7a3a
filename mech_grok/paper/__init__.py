"""The studies of arXiv 2602.06702, their published numbers, and how ours are compared with them.

`figures` says what each figure claims and which cells it needs, `study` puts the cells into one study, and
`compare` sets what was measured beside what was published, with the verdict of `limits`.
"""
