"""Audits: what a model still knows of rows that it was to forget, asked in every way that is known
to bring it out, each beside a control."""
