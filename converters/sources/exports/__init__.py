"""Exports of annotation tools: a reader per tool, and the shared processing of marks."""
