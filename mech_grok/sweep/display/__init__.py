"""What a sweep says: its plan, its progress, its end, and how a study is for whoever looks at it later."""
