"""Report: the same summary told three ways, as JSON, as Markdown and as plots."""
